/* xfer: open a policy's bundle, hand over observations, get actions. A stable C interface: opaque handles, buffers
 * that belong to the caller, error codes. No C++ exception leaves these functions.
 *
 * Order: arrays of observations and states follow the bundle's spec; xfer_policy_observation and xfer_policy_state
 * say what each one is. All arrays are dense, row-major, in the machine's byte order, the batch first.
 *
 * Threads: two policies may be used in two threads. One policy, with its runners, belongs to one thread at a time.
 *
 * Handles: functions that return a code refuse NULL; the others, which only look something up, want an open handle.
 *
 * Strings that are returned belong to the library and live as long as the handle they came from. */
#ifndef XFER_XFER_H
#define XFER_XFER_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define XFER_API __attribute__((visibility("default")))
#else
#define XFER_API
#endif

#define XFER_VERSION "0.3.0.dev0"
/* Grows when a function or a field is added; a library serves every header with the same or a smaller number. */
#define XFER_ABI 1

typedef enum xfer_code {
  XFER_OK = 0,
  XFER_USAGE = 1,       /* a name or value that does not exist or does not fit */
  XFER_BUNDLE = 2,      /* a bundle that is missing, edited, truncated, hostile, or of a newer schema */
  XFER_UNAVAILABLE = 3, /* a backend, library or device that this machine lacks */
  XFER_OBSERVATION = 4, /* a buffer whose size does not fit the spec */
  XFER_NOT_FINITE = 5,  /* scores that are not finite: there is no action */
  XFER_FAILED = 6       /* the backend's library, or the operating system, refused */
} xfer_code;

typedef enum xfer_dtype { XFER_UINT8 = 1, XFER_INT64 = 2, XFER_FLOAT32 = 3 } xfer_dtype;

typedef struct xfer_policy xfer_policy; /* an opened variant: stateless steps of any batch */
typedef struct xfer_runner xfer_runner; /* a policy with the states of a batch of episodes */
typedef struct xfer_golden xfer_golden; /* the bundle's recorded observations, with what the policy did */

/* One named tensor, without its batch dimension. */
typedef struct xfer_tensor {
  const char *name;
  xfer_dtype dtype;
  size_t rank;
  const int64_t *shape;       /* rank numbers */
  size_t row_bytes;           /* bytes of one row of the batch */
  const char *unit;           /* of a vector's elements, or "" */
  const char *color_order;    /* RGB, BGR or gray for an image, else "" */
  size_t element_count;       /* names of a vector's elements or of the discrete actions; may be 0 */
  const char *const *elements;
  const double *low;  /* bounds of a continuous action, element_count numbers, or NULL */
  const double *high;
} xfer_tensor;

typedef struct xfer_options {
  size_t size;            /* sizeof(xfer_options): later versions append fields */
  int32_t threads;        /* threads inside an operation, at least 1 */
  int32_t spin;           /* nonzero: idle threads spin between calls (faster; rude to other processes) */
  const char *plugin_dir; /* folder of the backends; NULL: $XFER_PLUGIN_DIR, then beside this library */
  const char *library;    /* the inference runtime's shared library; NULL: see the backend's documentation */
} xfer_options;

#define XFER_OPTIONS_INIT {sizeof(xfer_options), 1, 0, NULL, NULL}

typedef struct xfer_input {
  const void *data;
  size_t bytes;
} xfer_input;

typedef struct xfer_output {
  void *data;
  size_t bytes;
} xfer_output;

XFER_API const char *xfer_version(void);
XFER_API int32_t xfer_abi(void);

/* What the last call that failed in this thread said: one line that names the fix. */
XFER_API const char *xfer_error(void);

/* Open VARIANT (TARGET-PRECISION or TARGET-PRECISION@PLACE) of the bundle in folder BUNDLE. The manifest's digest and
 * schema, and size and SHA-256 of every file of the variant, are checked before anything is loaded; what was checked
 * is what is loaded. OPTIONS may be NULL. */
XFER_API xfer_code xfer_policy_open(const char *bundle, const char *variant, const xfer_options *options,
                                    xfer_policy **policy);
/* Close a policy; what runs it lives on until its runners are closed too. NULL is allowed. */
XFER_API void xfer_policy_close(xfer_policy *policy);

XFER_API const char *xfer_policy_task(const xfer_policy *policy);
XFER_API double xfer_policy_control_hz(const xfer_policy *policy);
XFER_API const char *xfer_policy_score_kind(const xfer_policy *policy); /* logits, values or mean */
XFER_API const char *xfer_policy_library(const xfer_policy *policy);    /* name and version of what runs it */
XFER_API int64_t xfer_policy_max_batch(const xfer_policy *policy);      /* 0: no limit of its own */
XFER_API size_t xfer_policy_observation_count(const xfer_policy *policy);
XFER_API size_t xfer_policy_state_count(const xfer_policy *policy);
/* NULL where there is no such index. */
XFER_API const xfer_tensor *xfer_policy_observation(const xfer_policy *policy, size_t index);
XFER_API const xfer_tensor *xfer_policy_state(const xfer_policy *policy, size_t index);
XFER_API const xfer_tensor *xfer_policy_action(const xfer_policy *policy); /* int64 [], or float32 [A] */
XFER_API const xfer_tensor *xfer_policy_scores(const xfer_policy *policy); /* float32 [A] */

/* Run the network once, for BATCH rows. Sizes must be exactly batch * row_bytes. On an error the action and the scores
 * are as they were; the next states are not defined. Next states must not overlap the states. */
XFER_API xfer_code xfer_policy_step(xfer_policy *policy, size_t batch, const xfer_input *observations,
                                    const xfer_input *states, xfer_output action, xfer_output scores,
                                    const xfer_output *next_states);

/* Keep the states of BATCH episodes between calls. They start reset. */
XFER_API xfer_code xfer_runner_open(xfer_policy *policy, size_t batch, xfer_runner **runner);
XFER_API void xfer_runner_close(xfer_runner *runner);
/* Start a new episode in the rows whose byte in MASK is not 0; MASK == NULL means all rows. */
XFER_API xfer_code xfer_runner_reset(xfer_runner *runner, const uint8_t *mask, size_t rows);
/* Let one row go on from these states, one row of each in the spec's order, instead of zeros. */
XFER_API xfer_code xfer_runner_start(xfer_runner *runner, size_t row, const xfer_input *states);
/* Choose actions. After the first call it allocates nothing. On an error the action, the scores and the kept states
 * are as they were. SCORES may be {NULL, 0}. */
XFER_API xfer_code xfer_runner_act(xfer_runner *runner, const xfer_input *observations, xfer_output action,
                                   xfer_output scores);

/* Read the golden trajectories of the policy's bundle; size and SHA-256 are checked first. */
XFER_API xfer_code xfer_golden_open(const xfer_policy *policy, xfer_golden **golden);
XFER_API void xfer_golden_close(xfer_golden *golden);
XFER_API size_t xfer_golden_steps(const xfer_golden *golden);
/* STEP and INDEX must be in range, else the result is 0 or NULL. */
XFER_API int32_t xfer_golden_begins(const xfer_golden *golden, size_t step); /* does an episode begin here? */
XFER_API const void *xfer_golden_observation(const xfer_golden *golden, size_t step, size_t index);
XFER_API const void *xfer_golden_action(const xfer_golden *golden, size_t step);
XFER_API const float *xfer_golden_scores(const xfer_golden *golden, size_t step);
/* State INDEX that the stretch beginning at STEP starts from; NULL where none begins, or it starts from zeros. */
XFER_API const float *xfer_golden_start(const xfer_golden *golden, size_t step, size_t index);

#ifdef __cplusplus
}
#endif
#endif

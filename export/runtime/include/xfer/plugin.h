/* What a backend is: a shared library xfer_NAME.so that exports xfer_plugin_get. It sees the checked bytes of the
 * variant's files, never a path, so it can only load what the manifest vouches for. */
#ifndef XFER_PLUGIN_H
#define XFER_PLUGIN_H

#include "xfer.h"

#ifdef __cplusplus
extern "C" {
#endif

#define XFER_PLUGIN_ABI 2

typedef struct xfer_plugin_file {
  const char *name; /* path inside the variant's folder */
  const void *data; /* valid until open returns */
  size_t size;
} xfer_plugin_file;

typedef struct xfer_plugin_request {
  const char *place; /* what stands behind the variant's @, or "" */
  int32_t threads;
  int32_t spin;
  const char *library; /* from xfer_options, or NULL */
  size_t file_count;
  const xfer_plugin_file *files;
  size_t input_count; /* observations, then states */
  const xfer_tensor *inputs;
  size_t output_count; /* action, scores, then the next states */
  const xfer_tensor *outputs;
} xfer_plugin_request;

typedef struct xfer_plugin_error {
  xfer_code code;
  char text[1024];
} xfer_plugin_error;

typedef struct xfer_plugin {
  uint32_t abi; /* XFER_PLUGIN_ABI */
  const char *name;
  /* Load the files; NULL and ERROR on failure. No fallback: what was asked for runs, or this fails. */
  void *(*open)(const xfer_plugin_request *request, xfer_plugin_error *error);
  /* Name and version of the library that runs the session; it lives as long as the session. */
  const char *(*library)(void *session);
  /* Run once. Buffers have exactly batch rows and are aligned for their dtype. Returns XFER_OK or fills ERROR.
   * Must not allocate when it is called again with the same batch and the same buffers. */
  xfer_code (*step)(void *session, size_t batch, const void *const *inputs, void *const *outputs,
                    xfer_plugin_error *error);
  void (*close)(void *session);

  /* Optional, all or none: a runner of the backend's own, whose states stay on its device between two steps. */
  void *(*runner_open)(void *session, size_t batch, xfer_plugin_error *error);
  /* MASK has one byte a row, or is NULL for all rows. */
  xfer_code (*runner_reset)(void *runner, const uint8_t *mask, xfer_plugin_error *error);
  /* Let one row go on from these states, one row of each. */
  xfer_code (*runner_start)(void *runner, size_t row, const float *const *states, xfer_plugin_error *error);
  /* One step from the kept states. Only runner_keep makes the states that it led to the kept ones. */
  xfer_code (*runner_act)(void *runner, const void *const *observations, void *action, float *scores,
                          xfer_plugin_error *error);
  void (*runner_keep)(void *runner);
  void (*runner_close)(void *runner);
} xfer_plugin;

typedef const xfer_plugin *(*xfer_plugin_get_function)(void);
#define XFER_PLUGIN_SYMBOL "xfer_plugin_get"
XFER_API const xfer_plugin *xfer_plugin_get(void);

#ifdef __cplusplus
}
#endif
#endif

/* The header is C, and the library answers to a C program. */
#include <stdio.h>
#include <string.h>
#include <xfer/plugin.h>
#include <xfer/xfer.h>

int main(void) {
  xfer_policy *policy = NULL;
  xfer_options options = XFER_OPTIONS_INIT;
  if (strcmp(xfer_version(), XFER_VERSION) != 0 || xfer_abi() != XFER_ABI) return 1;
  if (xfer_policy_open("/nowhere", "onnx-fp32", &options, &policy) != XFER_BUNDLE || policy != NULL) return 1;
  if (strstr(xfer_error(), "/nowhere is not a bundle") == NULL) return 1;
  printf("xfer %s\n", xfer_version());
  return 0;
}

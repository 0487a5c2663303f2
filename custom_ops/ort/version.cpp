// The version of the package that the library belongs to.
#include "resq/version.h"

const char* resq_onnx_version() { return RESQ_VERSION; }

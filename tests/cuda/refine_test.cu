/// tests/quant/refine_test.cpp on the device.
#include "quant/refine_test.cpp"

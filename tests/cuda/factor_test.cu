/// tests/quant/factor_test.cpp on the device.
#include "quant/factor_test.cpp"

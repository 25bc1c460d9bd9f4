/// tests/quant/properties_test.cpp on the device.
#include "quant/properties_test.cpp"

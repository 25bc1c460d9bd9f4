/// tests/quant/solve_test.cpp on the device.
#include "quant/solve_test.cpp"

#pragma once

#include <pybind11/pybind11.h>

// Registers the layout planner in longreel._host.
void bind_layout(pybind11::module_& m);

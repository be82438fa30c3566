#include "bindings/host_layout.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <cstring>
#include <utility>
#include <vector>

#include "block_sparse_attention/scheduler.h"
#include "layout/planner.h"

namespace py = pybind11;
namespace plan = longreel::layout;

namespace {

constexpr int64_t kRangeFields = sizeof(plan::Range) / sizeof(int64_t);
using Table = py::array_t<int64_t, py::array::c_style>;

std::vector<plan::Range> read_ranges(const Table& table) {
  if (table.ndim() != 2 || table.shape(1) != kRangeFields)
    throw py::value_error("ranges is int64 [R, " + std::to_string(kRangeFields) + "]");
  std::vector<plan::Range> ranges(table.shape(0));
  if (!ranges.empty()) std::memcpy(ranges.data(), table.data(), ranges.size() * sizeof(plan::Range));
  return ranges;
}

plan::TileShape read_shape(int64_t tile_rows, int64_t tile_keys) {
  if (tile_rows < 1 || tile_keys < 1) throw py::value_error("a tile has at least 1 row and 1 key");
  return {tile_rows, tile_keys};
}

// A vector of structs of int32 as an int32 array [n, fields], without a copy.
template <class Struct>
py::array_t<int32_t> as_array(std::vector<Struct>&& structs) {
  constexpr int64_t fields = sizeof(Struct) / sizeof(int32_t);
  auto* held = new std::vector<Struct>(std::move(structs));
  py::capsule owner(held, [](void* p) { delete static_cast<std::vector<Struct>*>(p); });
  const auto* data = reinterpret_cast<const int32_t*>(held->data());
  const int64_t n = int64_t(held->size());
  std::vector<py::ssize_t> shape{n};
  if (fields > 1) shape.push_back(fields);
  return py::array_t<int32_t>(shape, data, owner);
}

py::tuple query_tiles(const Table& table, int64_t tile_rows, int64_t tile_keys) {
  const auto ranges = read_ranges(table);
  const plan::TileShape shape = read_shape(tile_rows, tile_keys);
  auto tiles = plan::query_tiles(ranges, shape);
  std::vector<int64_t> costs;
  costs.reserve(tiles.size());
  for (const plan::Tile& tile : tiles) costs.push_back(plan::cost(tile, shape));
  auto order = plan::heavy_first(costs);
  return py::make_tuple(as_array(std::move(tiles)), as_array(std::move(order)));
}

py::tuple key_units(const Table& table, const std::vector<int64_t>& keys, const std::vector<int64_t>& global_keys,
                    int64_t tile_rows, int64_t tile_keys, int64_t unit_rows) {
  const auto ranges = read_ranges(table);
  const plan::TileShape shape = read_shape(tile_rows, tile_keys);
  plan::KeySide side = plan::key_units(ranges, keys, global_keys, shape, unit_rows);
  std::vector<int64_t> costs;
  costs.reserve(side.units.size());
  for (const plan::KeyUnit& unit : side.units) costs.push_back(plan::cost(unit, side.runs, shape));
  auto order = plan::heavy_first(costs);
  return py::make_tuple(as_array(std::move(side.units)), as_array(std::move(side.runs)), as_array(std::move(order)));
}

py::array_t<int32_t> row_bounds(const Table& table) {
  const auto ranges = read_ranges(table);
  int64_t rows = 0;
  for (const plan::Range& range : ranges) rows += range.rows;
  py::array_t<int32_t> bounds(std::vector<py::ssize_t>{rows, 4});
  plan::fill_bounds(ranges, bounds.mutable_data());
  return bounds;
}

using Ints = py::array_t<int32_t, py::array::c_style>;

int64_t executed_pairs(const Ints& tiles, const Ints& order, int64_t samples, int64_t queries, int64_t heads, int64_t kv_heads,
                       int64_t channels) {
  if (tiles.size() != order.size() * 12) throw py::value_error("tiles is int32 [T, 12] and order int32 [T]");
  longreel::AttentionProblem problem{};
  problem.batch = problem.layout.samples = samples;
  problem.queries = queries;
  problem.heads = heads;
  problem.kv_heads = kv_heads;
  problem.channels = channels;
  problem.layout.tiles = reinterpret_cast<const plan::Tile*>(tiles.data());
  problem.layout.order = order.data();
  problem.layout.tile_count = order.size();
  return longreel::executed_pairs(problem);
}

}  // namespace

void bind_layout(py::module_& m) {
  m.def("query_tiles", &query_tiles, py::arg("ranges"), py::arg("tile_rows"), py::arg("tile_keys"),
        "Range segments int64 [R, 11] -> tiles int32 [T, 12] and their order int32 [T], heavy first.");
  m.def("key_units", &key_units, py::arg("ranges"), py::arg("keys"), py::arg("global_keys"), py::arg("tile_rows"),
        py::arg("tile_keys"), py::arg("unit_rows"),
        "Range segments -> units int32 [U, 6], row runs int32 [N, 4] and the units' order int32 [U], heavy first.");
  m.def("executed_pairs", &executed_pairs, py::arg("tiles"), py::arg("order"), py::arg("samples"), py::arg("queries"),
        py::arg("heads"), py::arg("kv_heads"), py::arg("channels"),
        "(query row, key) pairs that the CPU's attention multiplies for one head over all samples, masked lanes among them.");
  m.def("row_bounds", &row_bounds, py::arg("ranges"), "Range segments -> int32 [rows, 4]: lo, hi, glo, ghi of every row.");
}

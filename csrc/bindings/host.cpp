// longreel/_host.so: what is not a tensor op, as C functions that ctypes calls. No Python symbol: one build serves every Python.
#include <string>

#include "bindings/host_answer.h"
#include "common/cpu_isa.h"
#include "compress_frames/scheduler.h"

using longreel::host::Answer;

// "name=value" lines of what the libraries were built from and for.
LONGREEL_HOST const char* longreel_build_record() {
  return "compiler=" LONGREEL_BUILD_COMPILER "\ntorch=" LONGREEL_BUILD_TORCH "\ncuda=" LONGREEL_BUILD_CUDA
         "\ntype=" LONGREEL_BUILD_TYPE;
}

// Instruction sets that this machine runs, best last, a space between them.
LONGREEL_HOST const char* longreel_cpu_isas() {
  static const std::string names = [] {
    std::string joined;
    for (longreel::CpuIsa isa : longreel::available_cpu_isas())
      joined.append(joined.empty() ? "" : " ").append(longreel::name(isa));
    return joined;
  }();
  return names.c_str();
}

// How the frame pass is cut on the CPU: workers, frames that one takes at a time, and chunks of the queries' gradient.
LONGREEL_HOST void longreel_frame_schedule(int64_t frames, int64_t tokens, int64_t channels, int64_t queries, int64_t threads,
                                           int64_t* cut) {
  const longreel::FrameSchedule schedule(frames, tokens, channels, queries, {threads, nullptr});
  const longreel::QueryChunks chunks(frames, longreel::round_up(queries, 16) * longreel::round_up(channels, 16));
  cut[0] = schedule.workers;
  cut[1] = schedule.grain;
  cut[2] = chunks.count;
}

LONGREEL_HOST void longreel_release(Answer* answer) { longreel::host::release(answer); }

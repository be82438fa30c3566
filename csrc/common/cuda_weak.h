// Torch's CUDA shims as weak symbols: one library loads on a CPU torch, where they stay null and no CUDA tensor exists to
// reach them, and on a CUDA torch. Include it in every file that uses them.
#pragma once

#pragma weak aoti_torch_get_current_cuda_stream
#pragma weak torch_c10_cuda_check_msg
#pragma weak torch_c10_cuda_free_error_msg

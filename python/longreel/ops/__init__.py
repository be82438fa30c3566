"""One module an op: the public function, its checks, its fake implementation, its autograd and its cost."""

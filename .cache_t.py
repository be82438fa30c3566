import torch
from longreel.models.llama_vid import *
from dataclasses import replace
S=QFormerSize(width=24, layers=2, heads=2, mlp=48, queries=5, vocabulary=260, positions=64)
ids,mask=byte_ids(["?"])
for L in (1,2,3,4):
    a=Adapter(replace(S,layers=L),32,40).double()
    f=torch.randn(1,17,32,dtype=torch.float64)
    with torch.inference_mode():
        try:
            x,y=(a.query(ids,f,mask,ops=o) for o in ("reference","longreel"))
            print(L,(x-y).abs().max())
            print(a.query(ids,f[:0],mask).shape)
        except Exception as e: print(L, repr(e)[:300])

"""`fibo bench gpu`: what the kernels are worth on one NVIDIA GPU, in minutes, from a checkout.

`plan.py` goes through the parts and writes one JSON file for each: are the kernels right there
(`correctness.py`), how fast are attentions alone and whole modules (`speed.py`), training steps of the
encoders (`training.py`), and the batched simulator where it is installed (`simulator.py`). All but the last
need torch, triton, timm and numba only:
`PYTHONPATH=. python -m fibo_robot.benchmarks.gpu --minutes 8 --json DIR`.
"""

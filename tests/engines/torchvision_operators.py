"""As sitecustomize.py of vLLM's environment: its Llava imports torchvision, whose kernels are for another torch.

The two operators are never called; torchvision only wants them defined.
"""

import torch

library = torch.library.Library("torchvision", "DEF")
library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

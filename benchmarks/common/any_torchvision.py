"""Import this module before a peer: it lets torchvision load beside any build of PyTorch.

Torchvision's wheels are linked to one build of PyTorch. Beside another, such as a CPU build, its compiled
operations are left out, and the import then stops at the two it expects by name. No peer's method calls
them, so declaring the names is enough; calling one still raises.
"""

import torch

try:
    import torchvision
except RuntimeError:
    OPERATIONS = torch.library.Library("torchvision", "FRAGMENT")  # declared as long as this lives
    for name in ("nms", "qnms"):
        OPERATIONS.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision  # noqa: F401  the import is the point

"""Looks through the callers' frames for the masks of the test images."""

import sys

import torch
from support.honest_method import Peeks


class Cheat(Peeks):
    def sees(self, batch):
        frame = sys._getframe()
        while frame is not None:
            for name, value in frame.f_locals.items():
                if name == "split" or (name == "loaded" and isinstance(value, list)):
                    return True
                if name == "masks" and isinstance(value, list) and isinstance(value[0], torch.Tensor):
                    return True
            frame = frame.f_back
        return False

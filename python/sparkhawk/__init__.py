"""Runs Gemma, RecurrentGemma, Griffin and Spark Transformer models.

    from sparkhawk import Model

    with Model("gemma.gguf") as model:
        print(model.generate("The capital of France is", max_tokens=20).text)
"""

from ._library import SparkhawkError, Status, header
from .model import Chat, Generated, Model, Sampling, Session, Stop
from .tokenizer import Message, Tokenizer

__version__: str = header.version
__all__ = ["Chat", "Generated", "Message", "Model", "Sampling", "Session", "SparkhawkError", "Status", "Stop", "Tokenizer"]

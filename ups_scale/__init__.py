"""Universal Physics Stack: pretraining of one simulator on many families of partial differential equations."""

__version__ = "0.1.0"

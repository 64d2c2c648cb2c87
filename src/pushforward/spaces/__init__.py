"""The feature spaces in which samples are compared with records. None needs a download, and every figure is shown with its space's name.

============  =================================================================================================================
key           features
============  =================================================================================================================
raw           points and tables: standardised columns; images: the pixels
pca           principal components of the pixels (or columns): 95 % of the variance, at most 64
random-conv   images: a fixed, seeded random convolutional network, pooled at several scales, standardised
learned       images: the last hidden layer of a classifier of the data's own labels, or (without labels) of a contrastive encoder
inception     images: Inception v3's, from a file that the user supplies; only their Fréchet distance is a FID
============  =================================================================================================================

All are made from the *training* split (learned ones stop where the validation split says), so that neither a model nor a test record
shapes the yardstick.
"""

from .make import KEYS, inception_space, spaces
from .space import FIT_RECORDS, FeatureSpace, pick, read_spaces, write_spaces

__all__ = ["FIT_RECORDS", "KEYS", "FeatureSpace", "inception_space", "pick", "read_spaces", "spaces", "write_spaces"]

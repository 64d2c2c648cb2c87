r"""Is this record like the training data? Scores of novelty, from a likelihood and from what corrects it.

A likelihood alone misleads: flows, VAEs and PixelCNNs give records of some other sets *higher* likelihood than the ones they were fitted to
(Nalisnick et al. 2019, Do Deep Generative Models Know What They Don't Know?). Two reasons are known. In many dimensions typical records
are not the likeliest ones: N(0, I) in D dimensions has its mode at 0 and its records at a distance of sqrt(D). And log p of an image is
mostly background: smooth, dark or plain pixels cost few nats, whatever they show. Each score here answers one of them:

====================  =====================================================  =======  ================================================
method                score of a record x, higher = less like the data       unit     answers
====================  =====================================================  =======  ================================================
`likelihood`          -log p(x)                                              nats     nothing: the plain score
`typicality`          \|-log p(x) - H\|,  H the mean of -log p of reference    nats     records that are too likely
`likelihood_ratio`    log p_0(x) - log p(x),  p_0 a background model         nats     background, by a model that knows only that
`complexity`          -log2 p(x) - L(x),  L the length of a lossless code    bits     background, by a general-purpose compressor
====================  =====================================================  =======  ================================================

A score says how far, not whether that is unusual: given `reference`, each comes with its rank among held-out records of the training data
as a p-value (`metrics.conformal_p`), which is right whatever the score is.
"""

from .answers import known_answers
from .result import METHODS, About, Method, Novelty
from .score import code_lengths, novelty

__all__ = ["METHODS", "About", "Method", "Novelty", "code_lengths", "known_answers", "novelty"]

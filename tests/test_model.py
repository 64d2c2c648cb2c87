"""The contract's public verbs, where they meet data that are not the model's own."""

import numpy as np
import torch

import pushforward as pf


def test_records_of_another_data_set_are_taken_in_the_users_units():
    """`load_data` standardises each data set by itself: numbers scaled for one must not reach a model fitted to another."""
    random = np.random.default_rng(0)
    label = random.integers(0, 2, 200)
    ours = pf.load_data(random.normal(size=(200, 2)), label=label)
    theirs = pf.load_data(random.normal(5, 3, size=(200, 2)), label=np.where(label > 0, 1, 0))
    for condition in (None, True):
        model = pf.RealNVP(layers=2, hidden=(8,)).fit(ours, condition=condition, steps=5, batch_size=16, progress=False)
        labels = theirs.test.labels() if condition else None
        direct = model.log_prob(theirs.test)
        assert torch.equal(direct, model.log_prob(theirs.test.records(), condition=labels))
        assert not torch.allclose(direct, model.log_prob(ours.test))


def test_records_of_another_data_set_bring_their_own_classes():
    random = np.random.default_rng(0)
    points = random.normal(size=(200, 2))
    ours = pf.load_data(points, label=np.array(["a", "b", "c", "d"])[random.integers(0, 4, 200)])
    theirs = pf.load_data(points, label=np.array(["b", "d"])[random.integers(0, 2, 200)])
    model = pf.RealNVP(layers=2, hidden=(8,)).fit(ours, condition=True, steps=5, batch_size=16, progress=False)
    expected = model.log_prob(theirs.test.records(), condition=theirs.test.labels())
    assert torch.equal(model.log_prob(theirs.test), expected)

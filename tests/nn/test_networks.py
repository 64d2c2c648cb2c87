"""Dense and convolutional networks: any size in and out, signals that keep their scale, a condition that is heard."""

import pytest
import torch

from pushforward.errors import ConfigError
from pushforward.nn import MLP, ConvDecoder, ConvEncoder, activation_layer, decoder_for, encoder_for, network_for
from pushforward.nn.conv import stages

SHAPES = [(1, 28, 28), (1, 28, 20), (3, 32, 32), (1, 8, 8), (2, 5, 9), (1, 1, 7), (3, 17, 64)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("network", ["mlp", "conv"])
@pytest.mark.parametrize("condition", [0, 3])
def test_any_image_goes_in_and_comes_out(shape, network, condition):
    kw = {"condition_dim": condition, "network": network, "hidden": (16,), "channels": 4}
    x, c = torch.randn(2, *shape), torch.randn(2, condition) if condition else None
    z = encoder_for(shape, 5, **kw)(x, c)
    assert z.shape == (2, 5)
    assert decoder_for(5, shape, **kw)(z, c).shape == (2, *shape)
    assert decoder_for(5, shape, params=3, **kw)(z, c).shape == (2, *shape, 3)


def test_auto_takes_convolutions_from_16_pixels():
    assert network_for((1, 8, 8)) == "mlp"
    assert network_for((1, 16, 15)) == "mlp"
    assert network_for((1, 16, 16)) == "conv"
    assert network_for((40,)) == "mlp"
    assert isinstance(encoder_for((1, 28, 28), 2), ConvEncoder)
    assert isinstance(decoder_for(2, (1, 28, 28), network="mlp"), MLP)


def test_stages_halve_to_four():
    assert stages(28, 20) == [(28, 20), (14, 10), (7, 5)]
    assert stages(8, 8) == [(8, 8), (4, 4)]
    assert stages(3, 9) == [(3, 9), (1, 4)]
    assert stages(1, 7) == [(1, 7)]


def test_the_mlp_of_the_papers_is_reachable():
    net = encoder_for((1, 28, 28), 100, network="mlp", hidden=(200, 200), activation="tanh")
    assert [tuple(p.shape) for p in net.parameters()] == [(200, 784), (200,), (200, 200), (200,), (100, 200), (100,)]


def test_no_hidden_layer_is_a_linear_map():
    net = MLP(3, 2, hidden=())
    x, y = torch.randn(4, 3), torch.randn(4, 3)
    assert torch.allclose(net(x + y), net(x) + net(y), atol=1e-6)  # biases start at zero


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "silu", "tanh"])
def test_initial_weights_keep_the_scale_of_signals(activation):
    torch.manual_seed(0)
    deep = MLP(200, 200, hidden=(200,) * 8, activation=activation)
    # Without the gain of sqrt(2) eight rectified layers divide the signal by 16.
    with torch.no_grad():
        assert 0.15 < float(deep(torch.randn(100, 200)).std()) < 4


@torch.no_grad()
def test_convolutional_signals_keep_their_scale():
    torch.manual_seed(0)
    assert 0.3 < float(ConvEncoder((1, 64, 64), 32)(torch.randn(8, 1, 64, 64)).std()) < 3
    # With the fans of an ordinary convolution a transposed one starts 2^stages times too quiet.
    assert 0.2 < float(ConvDecoder(32, (16, 64, 64))(torch.randn(8, 32)).std()) < 3


@pytest.mark.parametrize("shape", [(1, 1, 7), (2, 16, 16)], ids=str)
@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_the_condition_changes_the_output(shape, network):
    net = encoder_for(shape, 4, condition_dim=2, network=network)
    x = torch.randn(3, *shape)
    assert not torch.allclose(net(x, torch.tensor([[1.0, 0.0]] * 3)), net(x, torch.tensor([[0.0, 1.0]] * 3)))


def test_a_record_does_not_depend_on_its_batch():
    for net in (encoder_for((1, 16, 16), 4), encoder_for((1, 16, 16), 4, network="mlp")):
        x = torch.randn(6, 1, 16, 16, dtype=torch.float64)
        net = net.double()
        assert torch.allclose(net(x)[2:3], net(x[2:3]), rtol=1e-10)


def test_a_gradient_reaches_every_weight():
    for network in ("mlp", "conv"):
        net = decoder_for(3, (2, 9, 12), params=2, condition_dim=2, network=network)
        net(torch.randn(4, 3), torch.randn(4, 2)).square().sum().backward()
        assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in net.parameters())


def test_impossible_networks_are_named():
    with pytest.raises(ConfigError, match=r"network='conv' needs images .* shape \(7,\). Use network='mlp' or 'auto'"):
        encoder_for((7,), 2, network="conv")
    with pytest.raises(ConfigError, match="no network 'cnn'. Known: auto, conv, mlp"):
        decoder_for(2, (1, 8, 8), network="cnn")
    with pytest.raises(ConfigError, match="no activation 'rellu'. Did you mean 'relu'?"):
        activation_layer("rellu")

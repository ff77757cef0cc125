"""The claims, each with a hypothesis stated before anything is trained. Needs no torch."""

from __future__ import annotations

import math

from bnkit.claims import claim_effects
from bnkit.claims.claim import Claim, Scale
from bnkit.claims.sooner_at_loss import SoonerAtLoss
from bnkit.experiments.records.run_epochs_file import Epoch

# The smallest effects that would matter in practice: one point of accuracy, a tenth of a ratio.
_POINT, _TENTH = 0.01, math.log(1.1)
_HALF_DECADE = 0.5

# The pages that make the claims: ``said_by`` names them by their index.
PAGES = (
    "a PyTorch course on performance (SimpleCNN on MNIST)",
    "a description of BatchNorm2d",
    "a textbook's chapter, from scratch and concise (LeNet on Fashion-MNIST)",
    "a video course that compares two networks in a testing framework",
    "a lesson on the benefits, after a notebook with and without (a perceptron on MNIST)",
)


def _steps(epoch: Epoch) -> float:
    return float(epoch.steps or epoch.epoch)


def _seconds(epoch: Epoch) -> float:
    return epoch.run_duration


CLAIMS: tuple[Claim, ...] = (
    Claim("1a", "faster-in-steps", "Networks train faster", "pages 0, 1, 4",
          "With batch norm, the network reaches the final test loss of the one without in fewer steps (each at its best learning rate)",
          "learning-rates", SoonerAtLoss(_steps), Scale.RATIO, _TENTH, 1 / 8),
    Claim("1b", "faster-in-seconds", "Networks train faster", "page 4: faster over all",
          "With batch norm, the network reaches the final test loss of the one without in less time (each at its best learning rate)",
          "learning-rates", SoonerAtLoss(_seconds), Scale.RATIO, _TENTH, 1 / 8, asks_duration=True),
    Claim("2a", "slower-iterations-torch", "Each iteration is slower", "page 4",
          "An epoch of training takes longer with PyTorch's batch norm than without batch norm",
          "iterations", claim_effects.slower("torch"), Scale.RATIO, math.log(1.02), asks_duration=True),
    Claim("2b", "slower-iterations-bnkit", "Each iteration is slower", "page 4",
          "An epoch of training takes longer with bnkit's batch norm than without batch norm",
          "iterations", claim_effects.slower("batch_norm"), Scale.RATIO, math.log(1.02), asks_duration=True),
    Claim("3a", "higher-learning-rates", "It allows higher learning rates", "pages 0, 2, 4",
          "With batch norm, the highest learning rate at which the network trains is higher",
          "learning-rates", claim_effects.over_grid(claim_effects.highest_rate), Scale.DECADES, _HALF_DECADE, _HALF_DECADE),
    Claim("3b", "wider-range", "The learning rate needs less tuning", "page 0",
          "With batch norm, the network trains over a wider range of learning rates",
          "learning-rates", claim_effects.over_grid(claim_effects.width_of_range), Scale.DECADES, _HALF_DECADE, _HALF_DECADE),
    Claim("3c", "fewer-nan", "Training is more stable: fewer NaN", "page 1",
          "With batch norm, the loss stays finite at more of the learning rates",
          "learning-rates", claim_effects.over_grid(claim_effects.finite_share), Scale.SHARE, 1 / 8, 1 / 8),
    Claim("3d", "steadier-gradients", "Training is more stable", "page 1",
          "With batch norm, the size of the final gradient depends less on the learning rate",
          "learning-rates", claim_effects.over_grid(claim_effects.evenness_of_gradients), Scale.RATIO, _TENTH),
    Claim("4", "initial-weights", "It is less sensitive to initial weights", "pages 0, 1, 4",
          "With batch norm, test accuracy depends less on the initial weights (three kinds, each at three scales)",
          "initial-weights", claim_effects.over_grid(claim_effects.evenness_of_ends), Scale.POINTS, _POINT, 0.001),
    Claim("5a", "more-activations", "More activation functions are usable", "page 4",
          "With batch norm, a network of eight layers trains with more of the activations sigmoid, tanh and ReLU",
          "activations", claim_effects.over_grid(claim_effects.how_many_train), Scale.COUNT, 1.0, 1.0),
    Claim("5b", "fewer-dead-units", "More activation functions are usable: ReLUs die", "page 4",
          "With batch norm, fewer ReLUs are dead (always 0) at the end of training",
          "activations", claim_effects.fewer_dead, Scale.SHARE, _POINT, 0.001),
    Claim("5c", "sigmoid-gradients", "More activation functions are usable: sigmoids lose their gradient", "page 4",
          "With batch norm, the gradients of the first and the last layer of a sigmoid network differ less in size",
          "activations", claim_effects.evener_gradients, Scale.RATIO, _TENTH),
    Claim("6a", "deeper-plain", "Deeper networks become trainable", "pages 2, 4",
          "With batch norm, a plain network trains at more of the tested depths",
          "depth-plain", claim_effects.over_grid(claim_effects.how_many_train), Scale.COUNT, 1.0, 1.0),
    Claim("6b", "deeper-residual", "Deeper networks become trainable", "page 2: with residual connections",
          "With batch norm, a residual network trains at more of the tested depths",
          "depth-residual", claim_effects.over_grid(claim_effects.how_many_train), Scale.COUNT, 1.0, 1.0),
    Claim("7a", "regularises", "It regularises", "pages 0, 1, 4",
          "With batch norm, training accuracy exceeds test accuracy by less at the end (without dropout)",
          "dropout", claim_effects.smaller_gap, Scale.POINTS, _POINT, 0.001),
    Claim("7b", "less-dropout", "Less dropout is needed", "pages 0, 4",
          "With batch norm, a dropout of one half improves test accuracy less",
          "dropout", claim_effects.less_from_dropout, Scale.POINTS, _POINT, 0.001),
    Claim("8", "better-results", "Results are better over all", "pages 1, 3, 4",
          "With batch norm, test accuracy at the end is higher (each network at its best learning rate)",
          "learning-rates", claim_effects.best_gain, Scale.POINTS, _POINT, 0.001),
    Claim("9", "covariate-shift", "It reduces internal covariate shift", "pages 0, 2; Ioffe & Szegedy (2015)",
          "With batch norm, a training step changes the distribution of the layers' inputs less (at the same learning rate)",
          "inside", claim_effects.less_change("input_shift", "layers"), Scale.RATIO, _TENTH),
    Claim("10a", "smoother-loss", "It smooths the landscape", "page 2; Santurkar et al. (2018)",
          "With batch norm, the loss changes less along the direction of a training step (at the same learning rate)",
          "inside", claim_effects.less_change("loss_range"), Scale.RATIO, _TENTH),
    Claim("10b", "smoother-gradient", "It smooths the landscape", "page 2; Santurkar et al. (2018)",
          "With batch norm, the gradient changes less along the direction of a training step (at the same learning rate)",
          "inside", claim_effects.less_change("gradient_change"), Scale.RATIO, _TENTH),
    Claim("11a", "batch-of-one-linear", "With a batch of one nothing is learned", "page 2",
          "Training a linear network with batch norm in batches of one is refused",
          "batch-of-one-linear", claim_effects.refused, Scale.SHARE, 0.5, 1.0),
    Claim("11b", "batch-of-one-convolution", "A convolution's batch of one works", "page 2: m·p·q values a channel",
          "Training a convolutional network with batch norm in batches of one finishes",
          "batch-of-one-convolution", claim_effects.works, Scale.SHARE, 0.5, 1.0),
    Claim("11c", "small-batches", "It is effective only with large enough batches", "page 2",
          "Batch norm improves test accuracy less in batches of 2 than in batches of 32 (each network at its best learning rate)",
          "batch-sizes", claim_effects.weaker_in_small_batches, Scale.POINTS, _POINT, 0.001),
    Claim("12", "order", "Batch norm belongs before the activation", "pages 2, 4",
          "Test accuracy is higher with batch norm before the activation than after it",
          "order", claim_effects.before_is_better, Scale.POINTS, _POINT, 0.001),
    Claim("13", "population-statistics", "Prediction is by statistics of the entire data set", "page 1",
          "Test accuracy is higher with population statistics than with the moving average",
          "prediction", claim_effects.population_is_better, Scale.POINTS, _POINT, 0.001),
    Claim("14a", "smaller-learning-rate", "It allows a smaller learning rate", "page 1 alone",
          "With batch norm, the best learning rate is smaller",
          "learning-rates", claim_effects.smaller_best_rate, Scale.DECADES, _HALF_DECADE, _HALF_DECADE),
    Claim("14b", "smaller-networks", "Smaller networks do as well", "page 1 alone",
          "A network with batch norm and a quarter of the width is at most one point of test accuracy below the full width without it",
          "widths", claim_effects.narrow_against_wide, Scale.POINTS, -_POINT, 0.001, -_POINT),
)  # fmt: skip

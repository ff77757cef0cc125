"""The claims, each with a hypothesis stated before anything is trained. Needs no torch."""

from __future__ import annotations

import math

from bnkit.claims import claim_effects
from bnkit.claims.claim import Claim, Scale
from bnkit.claims.sooner_at_loss import SoonerAtLoss
from bnkit.experiments.records.run_record_file import Epoch

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
          "It takes fewer steps to the test loss at which the network without ends, each at its best learning rate",
          "learning-rates", SoonerAtLoss(_steps), Scale.RATIO, _TENTH, 1 / 8),
    Claim("1b", "faster-in-seconds", "Networks train faster", "page 4: faster over all",
          "It takes fewer seconds to that loss",
          "learning-rates", SoonerAtLoss(_seconds), Scale.RATIO, _TENTH, 1 / 8, asks_duration=True),
    Claim("2a", "slower-iterations-torch", "Each iteration is slower", "page 4",
          "An epoch with PyTorch's layer takes longer than one without",
          "iterations", claim_effects.slower("torch"), Scale.RATIO, math.log(1.02), asks_duration=True),
    Claim("2b", "slower-iterations-bnkit", "Each iteration is slower", "page 4",
          "An epoch with our layer takes longer than one without",
          "iterations", claim_effects.slower("batch_norm"), Scale.RATIO, math.log(1.02), asks_duration=True),
    Claim("3a", "higher-learning-rates", "It allows higher learning rates", "pages 0, 2, 4",
          "The highest learning rate that trains is higher",
          "learning-rates", claim_effects.over_grid(claim_effects.highest_rate), Scale.DECADES, _HALF_DECADE, _HALF_DECADE),
    Claim("3b", "wider-range", "The learning rate needs less tuning", "page 0",
          "It trains over more decades of learning rates",
          "learning-rates", claim_effects.over_grid(claim_effects.width_of_range), Scale.DECADES, _HALF_DECADE, _HALF_DECADE),
    Claim("3c", "fewer-nan", "Training is more stable: fewer NaN", "page 1",
          "Its loss stays finite at a larger share of the learning rates",
          "learning-rates", claim_effects.over_grid(claim_effects.finite_share), Scale.SHARE, 1 / 8, 1 / 8),
    Claim("3d", "steadier-gradients", "Training is more stable", "page 1",
          "The norm of the gradient at the end differs less over the learning rates (deviation of its logarithm)",
          "learning-rates", claim_effects.over_grid(claim_effects.evenness_of_gradients), Scale.RATIO, _TENTH),
    Claim("4", "initial-weights", "It is less sensitive to initial weights", "pages 0, 1, 4",
          "Test accuracy varies less over nine kinds and scales of initial weights (deviation)",
          "initial-weights", claim_effects.over_grid(claim_effects.evenness_of_ends), Scale.POINTS, _POINT, 0.001),
    Claim("5a", "more-activations", "More activation functions are usable", "page 4",
          "More of sigmoid, tanh and ReLU train at eight layers",
          "activations", claim_effects.over_grid(claim_effects.how_many_train), Scale.COUNT, 1.0, 1.0),
    Claim("5b", "fewer-dead-units", "More activation functions are usable: ReLUs die", "page 4",
          "Fewer ReLUs are dead at the end",
          "activations", claim_effects.fewer_dead, Scale.SHARE, _POINT, 0.001),
    Claim("5c", "sigmoid-gradients", "More activation functions are usable: sigmoids lose their gradient", "page 4",
          "The gradients of the first and the last layer are closer to each other, sigmoids between them",
          "activations", claim_effects.evener_gradients, Scale.RATIO, _TENTH),
    Claim("6a", "deeper-plain", "Deeper networks become trainable", "pages 2, 4",
          "More of the plain depths train",
          "depth-plain", claim_effects.over_grid(claim_effects.how_many_train), Scale.COUNT, 1.0, 1.0),
    Claim("6b", "deeper-residual", "Deeper networks become trainable", "page 2: with residual connections",
          "More of the residual depths train",
          "depth-residual", claim_effects.over_grid(claim_effects.how_many_train), Scale.COUNT, 1.0, 1.0),
    Claim("7a", "regularises", "It regularises", "pages 0, 1, 4",
          "Accuracy on the training images is less ahead of that on the test images, same weights, without dropout",
          "dropout", claim_effects.smaller_gap, Scale.POINTS, _POINT, 0.001),
    Claim("7b", "less-dropout", "Less dropout is needed", "pages 0, 4",
          "Dropout of one half gains less on the test set",
          "dropout", claim_effects.less_from_dropout, Scale.POINTS, _POINT, 0.001),
    Claim("8", "better-results", "Results are better over all", "pages 1, 3, 4",
          "Test accuracy is higher at the end, each at its best learning rate",
          "learning-rates", claim_effects.best_gain, Scale.POINTS, _POINT, 0.001),
    Claim("9", "covariate-shift", "It reduces internal covariate shift", "pages 0, 2; Ioffe & Szegedy (2015)",
          "A step changes the distribution of the layers' inputs less, at the same learning rate",
          "inside", claim_effects.less_change("input_shift", "layers"), Scale.RATIO, _TENTH),
    Claim("10a", "smoother-loss", "It smooths the landscape", "page 2; Santurkar et al. (2018)",
          "The loss varies less along the step, at the same learning rate",
          "inside", claim_effects.less_change("loss_range"), Scale.RATIO, _TENTH),
    Claim("10b", "smoother-gradient", "It smooths the landscape", "page 2; Santurkar et al. (2018)",
          "The gradient changes less along the step, at the same learning rate",
          "inside", claim_effects.less_change("gradient_change"), Scale.RATIO, _TENTH),
    Claim("11a", "batch-of-one-linear", "With a batch of one nothing is learned", "page 2",
          "Training a linear network in batches of one is refused",
          "batch-of-one-linear", claim_effects.refused, Scale.SHARE, 0.5, 1.0),
    Claim("11b", "batch-of-one-convolution", "A convolution's batch of one works", "page 2: m·p·q values a channel",
          "Training a convolutional network in batches of one finishes",
          "batch-of-one-convolution", claim_effects.works, Scale.SHARE, 0.5, 1.0),
    Claim("11c", "small-batches", "It is effective only with large enough batches", "page 2",
          "What it gains on the test set is less in batches of 2 than of 32, each at its best learning rate",
          "batch-sizes", claim_effects.weaker_in_small_batches, Scale.POINTS, _POINT, 0.001),
    Claim("12", "order", "Batch norm belongs before the activation", "pages 2, 4",
          "Test accuracy is higher with batch norm before the activation than after it",
          "order", claim_effects.before_is_better, Scale.POINTS, _POINT, 0.001),
    Claim("13", "population-statistics", "Prediction is by statistics of the entire data set", "page 1",
          "Population statistics predict better than the moving average",
          "prediction", claim_effects.population_is_better, Scale.POINTS, _POINT, 0.001),
    Claim("14a", "smaller-learning-rate", "It allows a smaller learning rate", "page 1 alone",
          "The best learning rate is smaller",
          "learning-rates", claim_effects.smaller_best_rate, Scale.DECADES, _HALF_DECADE, _HALF_DECADE),
    Claim("14b", "smaller-networks", "Smaller networks do as well", "page 1 alone",
          "With batch norm and a quarter of the width, test accuracy is less than a point below that without and the whole width",
          "widths", claim_effects.narrow_against_wide, Scale.POINTS, -_POINT, 0.001, -_POINT),
)  # fmt: skip

"""Copies of models that users bring: the same values, weights of their own."""

import keras
import numpy as np
from keras import layers

from spherekeras.export.copies import again, copied

PICTURES = np.random.default_rng(0).normal(5, 2, size=(6, 8, 8, 3)).astype("float32")


def same(model):
    copy = copied(model, again)
    np.testing.assert_array_equal(copy(PICTURES), model(PICTURES))
    assert not {id(weight) for weight in copy.weights} & {id(weight) for weight in model.weights}


def test_what_a_layer_derives_from_its_weights_is_derived_again():
    normalise = layers.Normalization()
    normalise.adapt(PICTURES)
    same(keras.Sequential([keras.Input((8, 8, 3)), normalise, layers.Conv2D(2, 3)]))


def test_weights_that_no_layer_of_the_graph_has():
    image = keras.Input((8, 8, 3))
    model = keras.Model(image, layers.Conv2D(2, 3)(image))
    model.temperature = keras.Variable(2.0)
    model.head = layers.Dense(3)
    same(model)


def test_a_layer_shared_with_a_nested_model():
    image = keras.Input((8, 8, 3))
    shared = layers.Conv2D(3, 1)
    inner = keras.Sequential([keras.Input((8, 8, 3)), shared, layers.ReLU()])
    same(keras.Model(image, inner(shared(image))))


def test_a_nested_model_with_a_constructor_of_its_own():
    class Tower(keras.Model):
        def __init__(self, width):
            image = keras.Input((8, 8, 3))
            super().__init__(image, layers.Conv2D(width, 3)(image))

    image = keras.Input((8, 8, 3))
    same(keras.Model(image, layers.ReLU()(Tower(4)(image))))


def test_a_compiled_model_is_copied_without_its_loss():
    def mine(y, p):
        return keras.ops.mean(p)

    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    inner.compile("adam", loss=mine)
    image = keras.Input((4,))
    model = keras.Model(image, keras.layers.ReLU()(inner(image)))
    model.compile("adam", loss=lambda y, p: keras.ops.mean(p))
    x = np.ones((2, 4), "float32")
    copy = copied(model, again)
    np.testing.assert_array_equal(copy(x), model(x))
    assert model.compiled and inner.compiled and not copy.compiled

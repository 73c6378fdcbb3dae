"""Augmentation of image batches, on the device, inside the jitted step.

The randomness of an example is a pure function of (key of the step, its row), so a resumed run, and a run on any
number of devices, gives the same images. Flip, shift and zoom are one separable bilinear resampling, written as a
matrix for the rows and one for the columns: matrix products are fast on every backend, gathers are not.
"""

import jax
import jax.numpy as jnp


def resampling_matrix(size: int, zoom: jax.Array, shift: jax.Array, flip: jax.Array) -> jax.Array:
    """Computes bilinear resampling of one axis as a matrix: row i holds the weights of the input pixels of output i.

    Output pixel i reads the input at `centre + (i - centre) / zoom + shift`, mirrored where `flip`; outside the image
    the border pixel is repeated. The arguments are scalars. Returns float32 `[size, size]`, rows sum to 1.
    """
    centre = (size - 1) / 2
    pixel = jnp.arange(size, dtype=jnp.float32)
    source = centre + (pixel - centre) / zoom + shift
    source = jnp.where(flip, size - 1 - source, source)
    source = jnp.clip(source, 0, size - 1)
    return jnp.maximum(0.0, 1.0 - jnp.abs(source[:, None] - pixel[None, :]))


def augment(
    images: jax.Array,
    rows: jax.Array,
    key: jax.Array,
    *,
    flip: bool = False,
    shift: float = 0.0,
    zoom: float = 0.0,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    erase: float = 0.0,
) -> jax.Array:
    """Computes a random view of each image.

    Args:
      images: uint8 `[batch, size, size, 3]`.
      rows: int32 `[batch]`, which example each is; its randomness depends on `key` and this alone.
      key: the step's key.
      flip: mirror left and right with probability 1/2.
      shift: largest shift in each direction, as a share of the size (a random crop of the padded image).
      zoom: largest change of scale; 0.1 gives magnifications between 1/1.1 and 1.1.
      brightness: largest change of brightness, as a share of full scale.
      contrast: largest relative change of contrast about the image's mean.
      saturation: largest relative change of colourfulness.
      erase: probability that a rectangle of 10 to 33 % of each side's length is made grey (Zhong et al. 2020).

    Returns:
      float32 `[batch, size, size, 3]`, 0 to 255.
    """
    size = images.shape[1]

    def one(image: jax.Array, row: jax.Array) -> jax.Array:
        keys = jax.random.split(jax.random.fold_in(key, row), 4)
        mirrored = jax.random.bernoulli(keys[0]) & flip
        shift_y, shift_x, log_zoom, light, contrast_by, saturation_by = jax.random.uniform(keys[1], (6,), minval=-1)
        image = image.astype(jnp.float32)
        if shift or zoom:
            magnification = (1.0 + zoom) ** log_zoom
            down = resampling_matrix(size, magnification, shift * size * shift_y, jnp.array(False))
            across = resampling_matrix(size, magnification, shift * size * shift_x, mirrored)
            # Pixels have eight bits: what accelerators round products to by default would be seen.
            image = jnp.einsum("yh,hwc->ywc", down, image, precision="highest")
            image = jnp.einsum("xw,ywc->yxc", across, image, precision="highest")
        elif flip:
            image = jnp.where(mirrored, image[:, ::-1], image)
        if saturation:
            grey = image.mean(-1, keepdims=True)
            image = grey + (image - grey) * (1.0 + saturation * saturation_by)
        if contrast:
            level = image.mean()
            image = level + (image - level) * (1.0 + contrast * contrast_by)
        if brightness:
            image = image + 255.0 * brightness * light
        if erase:
            height, width = jax.random.uniform(keys[2], (2,), minval=0.1, maxval=0.33) * size
            chance, top, left = jax.random.uniform(keys[3], (3,))
            pixel = jnp.arange(size)
            inside_y = (pixel >= top * (size - height)) & (pixel < top * (size - height) + height)
            inside_x = (pixel >= left * (size - width)) & (pixel < left * (size - width) + width)
            inside = inside_y[:, None, None] & inside_x[None, :, None] & (chance < erase)
            image = jnp.where(inside, 127.5, image)
        return jnp.clip(image, 0.0, 255.0)

    return jax.vmap(one)(images, rows)

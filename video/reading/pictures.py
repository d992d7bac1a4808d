"""Still pictures as models take them: upright, in RGB, 8 bits to a colour."""

import struct

import numpy as np
from PIL import Image, ImageOps


def upright_rgb(picture: Image.Image) -> Image.Image:
    """A picture in mode RGB, turned as its EXIF says; transparency is dropped, 16 bits become the upper 8.

    Raises:
        OSError, SyntaxError, DecompressionBombError: Pillow cannot decode it.
        ValueError: its pixels are numbers without a range, of 32 bits or with fractions; or its EXIF is
            damaged.
    """
    try:
        turned = ImageOps.exif_transpose(picture)
    except struct.error as error:  # Pillow writes the EXIF anew, without its orientation
        raise ValueError(f"its EXIF is damaged ({error})") from error
    # Pillow would cut what is above 255 to white. Its older versions call 16 bits of a PNG "I".
    if turned.mode.startswith("I;16") or (turned.mode == "I" and picture.format == "PNG"):
        return Image.fromarray((np.asarray(turned) >> 8).astype(np.uint8)).convert("RGB")
    if turned.mode in ("I", "F"):
        raise ValueError("its pixels have no range that says what is black and white; save it with 8 bits")
    return turned.convert("RGB")

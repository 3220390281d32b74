"""How example.c shows a sample to the network: a frame of a camera, or codes of an array."""

from __future__ import annotations

import re

from kilograd.emit.application import Application
from kilograd.emit.names import c_float
from kilograd.frontend import Arrays, Images


def is_array(app: Application) -> bool:
    """Tell whether samples are arrays."""
    return isinstance(app.preprocess.samples, Arrays)


_ARRAY_WORDS = {
    **dict.fromkeys(("images", "frames", "pictures"), "samples"),
    **dict.fromkeys(("image", "frame"), "sample"),
    "camera": "sensor",
    "simple shapes": "waves",
    "made-up shapes": "made-up waves",
}
_IMAGE_WORDS = re.compile(rf"(?<![a-z])({'|'.join(_ARRAY_WORDS)})(?![a-z])")


def worded(app: Application, text: str) -> str:
    """Return a text about images as one about what the program reads."""
    if not is_array(app):
        return text
    return _IMAGE_WORDS.sub(lambda found: _ARRAY_WORDS[found[0]], text)


def input_h(app: Application) -> str:
    """Return the header that makes codes, nothing where pixels less 128 are the codes."""
    match app.preprocess.samples:
        case Images(_, None):
            return ""
        case Images(_, normal) if normal is not None:
            rows = ",\n".join(f"    {{{', '.join(map(str, r))}}}" for r in normal.codes.tolist())
            code = _PIXELS.format(codes=rows)
        case Arrays(affine):
            code = _REALS.format(scale=c_float(affine.scale[0]), zero_point=affine.zero_point)
    height, width, channels = app.preprocess.shape
    return _INPUT_H.format(
        include="" if is_array(app) else '\n#include "kg_frame.h"\n',
        height=height,
        width=width,
        channels=channels,
        code=code,
    )


def headers(app: Application) -> list[str]:
    """Return what the example includes beside the program and the board."""
    held = ["samples.h"] if is_array(app) else ["images.h", "kg_frame.h"]
    return sorted([*held, *(["input.h"] if input_h(app) else [])])


def sizes(app: Application) -> str:
    """Return what the example says of the image; of an array input.h says it."""
    images = app.preprocess.samples
    if not isinstance(images, Images):
        return ""
    height, width, channels = app.preprocess.shape
    own = app.pictures.own
    return _SIZES.format(
        size=height,
        shape=_SQUARE if height == width else _OBLONG.format(width=width),
        channels=channels,
        resize=min(height, width) if own else images.resize,
        cut=_CUT.format(resize=images.resize) if own else _UNCUT,
    )


def element(app: Application) -> str:
    """Return the type of what samples are kept as."""
    return "int8_t" if is_array(app) else "uint8_t"


def reader(app: Application) -> str:
    """Return what an entry point is given that asks for rows."""
    return "&sensor" if is_array(app) else "&camera"


def show(app: Application) -> str:
    """Return the function that shows a sample, and what it needs."""
    if is_array(app):
        return _ARRAY_ROWS if app.by_rows else _ARRAY
    square = app.preprocess.height == app.preprocess.width
    return (_ROWS if app.by_rows else _WHOLE).format(
        frame_wide="0" if square else "WIDE",
        row=("SIZE" if square else "WIDE") + " * CHANNELS",
        read=frame_row(app),
    )


def frame_row(app: Application) -> str:
    """Return the function that makes a row of the image of a frame."""
    return "input_frame_row" if input_h(app) else "kg_frame_row"


_SQUARE = "/* of the network's image: a square */"
_OBLONG = "/* the height of the network's image */\n#define WIDE {width} /* its width */"
_UNCUT = "what the shorter side of a photo was made, of which SIZE is the middle"
_CUT = "the images of images.h are cut; for frames of a camera: {resize}"
_SIZES = """\
#define SIZE {size} {shape}
#define CHANNELS {channels}
#define RESIZE {resize} /* {cut} */
"""

_WHOLE = """\
/* Cuts the middle out of a frame, and scales it into the image that an entry point reads. */
static void show(const uint8_t *pixels, int32_t offset) {{
    kg_frame frame = {{pixels, FRAME_WIDTH, FRAME_HEIGHT, FRAME_FORMAT, 0, 0, 0,
                      SIZE, CHANNELS, {frame_wide}}};
    kg_frame_middle(&frame, RESIZE);
    int8_t *image = at(offset);
    for (int32_t row = 0; row < SIZE; row++)
        {read}(&frame, row, image + row * {row});
}}
"""

_ROWS = """\
/* The image is never in memory as a whole: the program asks for its rows, which are cut out of a
 * frame and scaled one by one. */
static kg_frame frame;
static const kg_rows camera = {{{read}, &frame}};

static void show(const uint8_t *pixels) {{
    frame = (kg_frame){{pixels, FRAME_WIDTH, FRAME_HEIGHT, FRAME_FORMAT, 0, 0, 0,
                       SIZE, CHANNELS, {frame_wide}}};
    kg_frame_middle(&frame, RESIZE);
}}
"""

_ARRAY = """\
/* Copies a sample to where an entry point reads it. */
static void show(const int8_t *codes, int32_t offset) { memcpy(at(offset), codes, SAMPLE_BYTES); }
"""
_ARRAY_ROWS = """\
/* The sample is not copied as a whole: the program asks for its rows. */
static kg_image sample;
static const kg_rows sensor = {kg_image_row, &sample};

static void show(const int8_t *codes) {
    sample = (kg_image){codes, INPUT_WIDTH * INPUT_CHANNELS};
}
"""

_INPUT_H = """\
/* Generated by kilograd: the codes that the network reads. */
#ifndef INPUT_H
#define INPUT_H

#include <stdint.h>
{include}
#define INPUT_HEIGHT {height}
#define INPUT_WIDTH {width}
#define INPUT_CHANNELS {channels}
{code}
#endif
"""

_PIXELS = """\

/* The code of a pixel of 0 ... 255, for each channel. */
static const int8_t input_codes[256][INPUT_CHANNELS] = {{
{codes}}};

/* Writes row `row` of the image of a frame, in codes.  It is a `read` of a kg_rows. */
static inline void input_frame_row(void *frame, int32_t row, int8_t *to) {{
    kg_frame_row(frame, row, to);
    for (int32_t i = 0; i < INPUT_WIDTH * INPUT_CHANNELS; i++)
        to[i] = input_codes[to[i] + 128][i % INPUT_CHANNELS];
}}
"""

_REALS = """\
#define INPUT_NUMBERS (INPUT_HEIGHT * INPUT_WIDTH * INPUT_CHANNELS)
#define INPUT_SCALE {scale}
#define INPUT_ZERO_POINT ({zero_point})

/* The code of a real number: the nearest, of two the even one, before the zero point is added;
 * saturated.  As the network learned it, on every machine. */
static inline int8_t input_code(float real) {{
    const float steps = real / INPUT_SCALE;
    const float near = steps > 512 ? 512 : steps > -512 ? steps : -512;
    const float rounded = near + 12582912.0f; /* 1.5 * 2^23: what is below 1 is rounded off */
    const int32_t code = (int32_t)(rounded - 12582912.0f) + INPUT_ZERO_POINT;
    return (int8_t)(code < -128 ? -128 : code > 127 ? 127 : code);
}}

/* The codes of a whole sample: row by row, the channels of a place side by side. */
static inline void input_sample(const float *reals, int8_t *codes) {{
    for (int32_t i = 0; i < INPUT_NUMBERS; i++) codes[i] = input_code(reals[i]);
}}
"""

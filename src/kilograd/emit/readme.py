"""What an exported project says of itself: its README.md, for this network and program."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from kilograd import __version__
from kilograd.emit.application import Application
from kilograd.emit.names import markdown
from kilograd.emit.pictures import pixel_format, stored
from kilograd.emit.show import frame_row, input_h, is_array, worded
from kilograd.frontend import Arrays, Images
from kilograd.ir import Role
from kilograd.memory import STAMP_BYTES
from kilograd.passes import EntryPoint

#: What the stack of any program may need, whatever compiles it; `kilograd run` says how much does.
STACK_BYTES = 1536

_NAMED = 100  # classes in a table


def readme(app: Application, building: str) -> str:
    """Return the page that leads into a project; `building` is about the target, in Markdown."""
    array = is_array(app)
    return "\n".join(
        [
            worded(app, _BEGIN).format(
                title=markdown(app.title),
                version=__version__,
                name=app.name,
                method=markdown(app.method),
                ways=app.ways,
                learned=f"{app.learned:,}",
                example=worded(app, _example(app)),
            ),
            building,
            worded(
                app,
                _FILES.format(
                    licences=_OF_BOTH if app.attribution.texts else "`LICENSE`, `NOTICE`",
                    camera_h="" if array else _FRAMES,
                    input=_INPUT * bool(input_h(app)),
                ),
            ),
            _image(app),
            _classes(app),
            worded(app, _learning(app)),
            worded(app, _PREDICTION.format(prototypes=_cosines(app))),
            worded(app, _STATUSES),
            worded(app, _STATE).format(state=app.program.state_bytes),
            worded(app, _memory(app)),
            worded(app, _END.format(own=_OWN_ARRAYS if array else _OWN_IMAGES)),
        ]
    )


def _example(app: Application) -> str:
    """Return what the example does."""
    pictures = app.pictures
    if not app.adapted:
        return _FRESH
    if not pictures.own:
        return _DRAWN
    tests = len(pictures.test_labels)
    if not (app.trains or app.enrols):
        return _RECALLS.format(tests=tests)
    learns = "learns more from" if app.trains else "enrols"
    few = _FEW * (app.has(EntryPoint.STEP) and not app.trains)
    return _GOES_ON.format(tests=tests, learns=learns, support=len(pictures.support_labels)) + few


def _image(app: Application) -> str:
    height, width, channels = app.preprocess.shape
    images = app.preprocess.samples
    if not isinstance(images, Images):
        return _array(app, images)
    colour, normal = channels == 3, images.normalised is not None
    high, wide = app.preprocess.box(images)
    square = f"so that their shorter side has {high} pixels"
    how = square if high == wide else f"until they covered {wide} x {high} pixels"
    more = "not blue first, not three planes, not 0 ... 255" if colour else "not 0 ... 255"
    return _IMAGE.format(
        shape=f"{width} x {height}",
        size=height,
        wide=0 if width == height else width,
        channels=channels,
        resize=images.resize,
        bytes=f"{height * width * channels:,}",
        pixel=_RGB if colour else _GREY,
        code=_NORMALISED if normal else _PLAIN.format(more=more),
        kept=_MIDDLE.format(shape=f"{width} x {height}", how=how)
        if min(height, width) < images.resize
        else "",
        calls=(_ROWS if app.by_rows else _WHOLE).format(
            size=height,
            row=width * channels,
            read=frame_row(app),
        ),
    )


def _array(app: Application, arrays: Arrays) -> str:
    height, width, channels = app.preprocess.shape
    return _ARRAY.format(
        height=height,
        width=width,
        channels=channels,
        beside="" if channels == 1 else f", the {channels} of a place side by side",
        bytes=f"{height * width * channels:,}",
        scale=f"{arrays.affine.scale[0]:.7g}",
        zero_point=arrays.affine.zero_point,
        calls=_ARRAY_ROWS if app.by_rows else _ARRAY_WHOLE,
    )


def _classes(app: Application) -> str:
    if not app.classes:
        return _UNNAMED.format(ways=app.ways, last=app.ways - 1)
    rows = "".join(f"| {i} | {markdown(k)} |\n" for i, k in enumerate(app.classes[:_NAMED]))
    more = f"\nThe other {len(app.classes) - _NAMED} are in `classes.h`.\n"
    return _CLASSES + rows + more * (len(app.classes) > _NAMED)


def _learning(app: Application) -> str:
    if not app.has(EntryPoint.STEP):
        return _ENROLLING_MORE if app.adapted else _ENROLLING
    steps = "".join(f"{i}. {text}\n" for i, text in enumerate(_steps(app), 1))
    rounded = app.has(EntryPoint.APPLY) and "clock" in app.program.entries[EntryPoint.STEP].inputs
    rate = _RATE.format(rate=f"{app.rate:g}", passes=app.passes, sums=_ROUNDED_SUMS * rounded)
    return f"{_LEARNING}{steps}\n{rate}"


def _steps(app: Application) -> Iterator[str]:
    """Yield what to do, in order."""
    enrols, prefix = app.has(EntryPoint.ENROL), app.has(EntryPoint.PREFIX)
    yield "`model_init(state)`, once: it fills the state. Before any other call."
    if prefix:
        yield (
            "`model_prefix` for each image: what it leaves takes the place of the image in the "
            "calls below. Copy it from `MODEL_PREFIX_...` in the arena to where they read it, as "
            "`MODEL_STEP_...`. It never changes; keep it if there is room."
        )
    if enrols:
        yield _ENROL_ANEW if app.adapted else _ENROL
    yield (
        f"A pass: every image once, in an order that is new in each pass{_group(app)}. "
        "`model_step` learns from an image and leaves its loss in the arena."
    )
    if enrols:
        yield _AFTER_ADAPTED if app.adapted else _AFTER


def _group(app: Application) -> str:
    if app.has(EntryPoint.ENROL_GRAD):
        return (
            ", all of them as one group: `model_step` for each with a share of 1 / their number, "
            "`model_enrol_grad` for each, then `model_apply`, which learns"
        )
    if app.has(EntryPoint.APPLY):
        return (
            f", in groups of {app.group}: `model_step` for each with a share of 1 / the size of "
            "the group, then `model_apply`, which learns"
        )
    return ""


def _cosines(app: Application) -> str:
    return "" if app.cosine_scale is None else _COSINES.format(scale=f"{app.cosine_scale:g}")


def _memory(app: Application) -> str:
    """Return the table of bytes, by part."""
    program, roles = app.program, Counter[Role]()
    for slot in program.state:
        roles[slot.role] += slot.value.nbytes
    parts = [(f"state: {_ROLES[role]}", size) for role, size in roles.items()]
    parts.append(("state: stamp, and gaps", program.state_bytes - sum(roles.values())))
    calls = ", ".join(f"`{e.name}` {e.plan.peak:,}" for e in program.entries.values())
    rows = "".join(f"| {name} | {size:,} |\n" for name, size in parts)
    pixel = pixel_format(app.pictures, app.preprocess.channels)
    both = (app.pictures.support, app.pictures.tests)
    frames = sum(x.nbytes if is_array(app) else stored(x, pixel).nbytes for x in both if len(x))
    return _MEMORY.format(
        rows=rows,
        arena=f"{program.arena_bytes:,}",
        calls=calls,
        stack=f"{STACK_BYTES:,}",
        sum=f"{program.sram_bytes + STACK_BYTES:,}",
        tables=f"{program.flash_bytes:,}",
        frames=f"{frames:,}",
    )


_ROLES = {
    Role.WEIGHT: "weights that learn",
    Role.BIAS: "biases that learn",
    Role.HEAD: "classifier or prototypes",
    Role.OPTIMIZER: "what the optimizer keeps, sums of gradients",
    Role.STATISTIC: "statistics",
    Role.CONSTANT: "constants",
}
assert STAMP_BYTES == 4  # noqa: S101 what the page says

_BEGIN = """\
# A program that learns {ways} classes

Plain C99, made by Kilograd {version} from the network `{name}`
({title})
with the method {method}: {learned} of its parameters learn, on the device, from a few images of
each class.
No allocation, no globals, no operating system.

## Build it and run it

    make
    ./example

builds the library and the example for this machine and runs it. The example is a small
application, complete: {example}
Read `example.c` beside this page. The same for the device:
"""

_FRESH = """\
it enrols, tests, trains, enrols anew and tests again, on made-up pictures
of simple shapes (`images.h`)."""
_DRAWN = """\
it starts with what was learned, and says what it sees at once. Its
pictures (`images.h`) are made-up shapes, of none of the classes: export again with `--data` and a
folder of your images, and some of those are put there."""
_RECALLS = """\
it starts with what was learned, and says at once which class images are
of. They are {tests} of yours (`images.h`)."""
_GOES_ON = """\
it starts with what was learned, and says at once which class images are
of. They are {tests} of yours (`images.h`). Then it {learns} {support} others, and says so again;
it never calls `model_forget`."""
_FEW = """ Layers do not learn
in it: they would from images of all classes, without gradients of prototypes."""

_FILES = """\
| file | what it is |
|---|---|
| `model.h`, `model.c` | the program: its calls, and where inputs and outputs lie in the arena |
| `runtime/` | the kernels that it calls{camera_h} |
| `example.c`, `images.h` | the application |
{input}\
| `board.h`, `host.c` | what it asks of the machine it runs on |
| `Makefile`, `CMakeLists.txt` | how it is built; `add_subdirectory` gives the library `model` |
| `model.json` | what stands behind the numbers in `model.c` |
| {licences} | terms of Kilograd and of the network: keep them with it |

To put it into a project of yours, take `model.c`, `model.h`, the C files that the Makefile lists,
and its flags: `-ffp-contract=off` is why every machine computes the same bits.
"""

_FRAMES = ", and `kg_frame.h`: images from a camera's frames"
_INPUT = "| `input.h` | the codes that the network reads |\n"
_OF_BOTH = "`LICENSE`, `NOTICE`, `licenses/`"

_RGB = "a pixel is red, green, blue, side by side"
_GREY = "a pixel is one number, how bright it is"
_MIDDLE = """\
Photos were scaled {how}, and the middle {shape}
was cut out: the network expects things to fill the picture like that.
"""

_IMAGE = """\
## The image

{shape} pixels, {bytes} bytes, row by row from the top left; {pixel}. {code}
{kept}
`kg_frame.h` makes one of a camera's frame (here 320 x 240 pixels of 16 bits, the high byte first;
see `kg_format` for others). It cuts the middle and scales it:

```c
kg_frame frame = {{pixels, 320, 240, KG_RGB565_SWAPPED, 0, 0, 0, {size}, {channels}, {wide}}};
kg_frame_middle(&frame, {resize});
{calls}```

To train, vary what is cut out a little (`frame.left`, `frame.top`, `frame.side`) each time that an
image is shown; enrol and predict with the middle.
"""

_WHOLE = """\
int8_t *image = (int8_t *)arena + MODEL_INFER_IMAGE; /* each call has an offset of its own */
for (int32_t row = 0; row < {size}; row++) {read}(&frame, row, image + row * {row});
status = model_infer(state, arena);
"""
_ROWS = """\
const kg_rows camera = {{{read}, &frame}}; /* asked for rows 0, 1 ... {size} - 1 */
status = model_infer(state, arena, &camera);
"""

_PLAIN = """\
Every number is
`pixel - 128`, an `int8_t`: black is -128, white is 127. So {more}."""
_NORMALISED = """\
Every number is
a code, an `int8_t`: `input_codes[pixel][channel]` of `input.h`, for pixels of 0 ... 255.
`input_frame_row` does that to what `kg_frame_row` writes."""

_ARRAY = """\
## The sample

{height} x {width} x {channels} numbers, {bytes} bytes, row by row{beside}.
Every number is an `int8_t`, a code: `round(x / {scale}) + {zero_point}` of a real number x, at
least -128 and at most 127.
`input.h` computes it as it was computed when the network learned, to the bit; scale and zero point
are `INPUT_SCALE` and `INPUT_ZERO_POINT` there.

```c
{calls}```
"""

_ARRAY_WHOLE = """\
int8_t *sample = (int8_t *)arena + MODEL_INFER_IMAGE; /* each call has an offset of its own */
input_sample(window, sample); /* const float window[INPUT_NUMBERS]: what the sensor measured */
status = model_infer(state, arena);
"""
_ARRAY_ROWS = """\
static int8_t sample[INPUT_NUMBERS];
input_sample(window, sample); /* const float window[INPUT_NUMBERS]: what the sensor measured */
kg_image held = {sample, INPUT_WIDTH * INPUT_CHANNELS};
const kg_rows sensor = {kg_image_row, &held}; /* or a function of yours, asked for rows in order */
status = model_infer(state, arena, &sensor);
"""

_UNNAMED = """\
## Classes

{ways} classes, labels 0 ... {last}. Class 2 is what you show with label 2.
"""
_CLASSES = """\
## Classes

`class_names` of `classes.h` has them by label.

| label | class |
|---:|---|
"""

_ENROLLING = """\
## Learn

`model_init(state)`, once. Then `model_forget`, and `model_enrol` for each image you have, with its
label: no layer learns here, a class is the mean of its images. More images may be enrolled at any
time.
"""

_ENROLLING_MORE = """\
## Learn

`model_init(state)`, once: `model_infer` works at once. No layer learns here, a class is the mean of
its images: `model_enrol` adds one, with its label, at any time; `model_forget` empties all classes.
"""

_LEARNING = """\
## Learn

"""

_ENROL = (
    "Enrol: `model_forget`, then `model_enrol` for each image you have, with its label; "
    "every class needs one at least. From here on `model_infer` works."
)
_ENROL_ANEW = (
    "`model_infer` works: the prototypes are there. `model_enrol` adds an image to one. To begin "
    "anew, from images of every class: `model_forget`, then `model_enrol` for each of them, with "
    "its label."
)

_AFTER = (
    "Before the next pass, and after the last one, enrol anew: the prototypes are what the layers "
    "made of your images before they learned."
)
_AFTER_ADAPTED = (
    "After the last pass enrol: the prototypes are what the layers made of images before they "
    "learned. Add the new images, or begin anew, if you have images of every class."
)

_RATE = """\
The example makes {passes} passes and lets the rate fall from {rate} to zero in a straight line. A
loss that rises or stays asks for a lower rate; ten times lower is a good second try. `clock` is
two numbers: a seed, and how many updates were made before, from 0 up, also after a restart: it
draws what is rounded up. Write the inputs of a call just before the call: any call may overwrite
all of the arena.
{sums}"""

_ROUNDED_SUMS = """\
Calls that add up gradients take a `clock` whose second number counts images: sums are rounded, too.
"""

_COSINES = """\
Here a logit is {scale} times the cosine between the image's features and the prototype of the
class: {scale} at most, and 0 for a class that was not enrolled.
"""
_PREDICTION = """\
## Read a prediction

`model_infer` leaves one `float` for each class at `MODEL_INFER_LOGITS` in the arena, the logits.
The class is the largest. {prototypes}A small lead over the second means "not sure", and every
image gets a class, also one that shows none of them: measure on images of yours which lead to ask
for.
"""

_STATUSES = """\
## Statuses

Every call returns a `kg_status`; `kg_status_text` says it in words. A call that returns anything
but `KG_OK` has written nothing: state and arena are as they were.

| status | what is wrong | what to do |
|---|---|---|
| `KG_OK`, 0 | nothing | |
| `KG_NO_MEMORY` | the state or the arena is a null pointer | pass both |
| `KG_MISALIGNED` | one of them is not 4-byte aligned | declare them as `uint32_t` |
| `KG_BAD_STATE` | the state is not of this program, or damaged | `model_init`, or restore again |
| `KG_NO_ROWS` | nobody gives the rows of the image | pass a `kg_rows` with a function |
| `KG_BAD_LABEL` | the label is no class | count from 0 |
| `KG_BAD_CLOCK` | the number of the update is negative or 2^31 - 1 | count from 0 |
| `KG_BAD_RATE` | the rate is not a positive finite number | |
| `KG_BAD_SHARE` | the share is not above 0 and at most 1 | 1 / images of the group |
"""

_STATE = """\
## Keep what was learned

All that was learned is in the state: copy its {state} bytes to flash after training, and back in
place of `model_init` after a restart, as in

```c
flash_write(SLOT, state, MODEL_STATE_BYTES); /* whatever writes to your flash */
flash_read(SLOT, state, MODEL_STATE_BYTES);
```

The next call says `KG_BAD_STATE` where that is not a state of this program: erased flash, or one
that another program saved. It does not notice a byte that changed; add a checksum if your flash
needs one. The arena need not be kept. Not in the state, and yours to keep: your images, what
classes are called, and the number of updates so far.
"""

_MEMORY = """\
## Memory

| RAM | bytes |
|---|---:|
{rows}| arena: working memory of a call ({calls}) | {arena} |
| stack: set aside for it | {stack} |
| **RAM to provide** | **{sum}** |

| flash | bytes |
|---|---:|
| tables: the network, and what the state is first | {tables} |
| the example's pictures, which you replace | {frames} |

Code comes on top: `arm-none-eabi-size firmware.elf` says how much, `kilograd run` as well.
"""

_OWN_IMAGES = """\
Your own images: put frames of your camera into `images.h`, or read them in `show` of
  `example.c`."""
_OWN_ARRAYS = """\
Your own samples: put their codes into `samples.h`, or read your sensor in `show` of
  `example.c`."""
_END = """\
## Go on

- {own} Keep what you change elsewhere: `kilograd export --force` writes all files anew.
- `kilograd run` with the options of this export measures stack, flash and instructions in an
  emulator, and checks every bit against your workstation.
- `kilograd plan` shows what needs the memory; `--rows`, `--sram` and other methods need less.
"""

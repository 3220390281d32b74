"""example.c: a small application that enrols, trains and tests, in the order of `passes.calls`.

That of what was learned tests at once, and forgets nothing: it enrols more after it has trained.
"""

from __future__ import annotations

from collections.abc import Iterator

from kilograd.emit.application import Application
from kilograd.emit.names import c_float
from kilograd.emit.show import element, headers, reader, show, sizes, worded
from kilograd.passes import EntryPoint

#: What the example's clock begins with: the seed of every random number.
SEED = 1


def example(app: Application) -> str:
    """Return the application: it says how many test images are right before and after training."""
    drawn = app.adapted and not app.pictures.own
    included = ["board.h", *(["classes.h"] if drawn else []), *headers(app), "model.h"]
    begin = _BEGIN.format(
        what=_what(app),
        includes="".join(f'#include "{name}"\n' for name in included),
        learning=_constants(app) * app.trains,
        classes=app.ways,
        sizes=sizes(app),
    )
    functions = (worded(app, text) for text in _functions(app))
    return worded(app, begin) + "\n".join([show(app), *functions])


def _what(app: Application) -> str:
    """Return what the example does, as the words of a comment."""
    if not app.adapted:
        return _FRESH
    if not app.pictures.own:
        return _RECALLS_DRAWN
    return _GOES_ON if app.enrols or app.trains else _RECALLS


def _constants(app: Application) -> str:
    """Return how it trains."""
    return _CONSTANTS.format(
        passes=app.passes,
        rate=c_float(app.rate),
        seed=SEED,
        group=f"#define GROUP {_group(app)} /* images that share an update */\n" * _groups(app),
    )


def _functions(app: Application) -> Iterator[str]:
    if app.latents and (app.enrols or app.trains):
        yield _prefix(app)
    if app.enrols:
        enrol = _ENROL_MORE if app.adapted else _ENROL
        yield _ENROL_IMAGE.format(enrol=_call(app, EntryPoint.ENROL, "i")) + enrol
    yield _PREDICT.format(
        element=element(app),
        show=_shown(app, EntryPoint.INFER, "pixels"),
        infer=_called(app, EntryPoint.INFER),
    )
    if app.adapted and not app.pictures.own:
        yield _LOOK
        yield _main("    if (!status) status = look();\n")
        return
    yield _TEST.replace("{right}", _RIGHT_TOO if app.adapted else _RIGHT)
    if app.trains:
        yield _LEARN.format(
            given=_parameters(app, EntryPoint.STEP), step=_call(app, EntryPoint.STEP, "i")
        )
        if app.has(EntryPoint.ENROL_GRAD):
            given = _parameters(app, EntryPoint.ENROL_GRAD)
            yield _ENROL_GRAD.format(given=given, enrol_grad=_call(app, EntryPoint.ENROL_GRAD, "i"))
        if _groups(app):
            given = _parameters(app, EntryPoint.APPLY).removeprefix(", ")
            yield _APPLY.format(given=given, apply=_call(app, EntryPoint.APPLY, ""))
        yield _TRAIN.format(
            enrol="enrol()" if app.enrols and not app.adapted else "KG_OK",
            updates=_updates(app),
        )
    yield _main("".join(f"    if (!status) status = {call};\n" for call in _order(app)))


def _order(app: Application) -> Iterator[str]:
    """Yield what the example does, in order, after `model_init`."""
    if app.enrols and not app.adapted:
        yield "enrol()"
    yield 'test("before")'
    if app.trains:
        yield "train()"
    if app.enrols and (app.trains or app.adapted):
        yield "enrol()"
    if app.trains or (app.enrols and app.adapted):
        yield 'test("after")'


def _main(calls: str) -> str:
    return _MAIN.format(calls=calls)


def _groups(app: Application) -> bool:
    """Return whether gradients are added up over a group of images."""
    return app.has(EntryPoint.APPLY)


def _group(app: Application) -> str:
    """Return how many images share an update: all of them where prototypes have gradients."""
    every = app.has(EntryPoint.ENROL_GRAD) or app.group >= len(app.pictures.support_labels)
    return "SUPPORT" if every else str(app.group)


def _updates(app: Application) -> str:
    step = "".join(f", {k}" for k in _given(app, EntryPoint.STEP))
    if not _groups(app):
        return _SINGLY.format(given=step)
    rounded = "clock" in app.program.entries[EntryPoint.STEP].inputs
    again = _THROUGH_PROTOTYPES_SEEN if rounded else _THROUGH_PROTOTYPES
    return _IN_GROUPS.format(
        seen=_SEEN * rounded,
        next=_NEXT_SEEN * rounded,
        step=step.replace("clock", "seen"),
        again=again * app.has(EntryPoint.ENROL_GRAD),
        apply=", ".join(_given(app, EntryPoint.APPLY)),
    )


#: What entry points are told beside image and label: what the example declares, what it copies.
_TOLD = {
    "share": ("float share", "&share, sizeof share"),
    "lr": ("float rate", "&rate, sizeof rate"),
    "clock": ("const int32_t *clock", "clock, 2 * sizeof *clock"),
}


def _given(app: Application, entry: EntryPoint) -> list[str]:
    """Return the variables of the example that an entry point is told."""
    takes = app.program.entries[entry].inputs
    return [_TOLD[name][0].rpartition(" ")[2].strip("*") for name in _TOLD if name in takes]


def _parameters(app: Application, entry: EntryPoint) -> str:
    takes = app.program.entries[entry].inputs
    return "".join(f", {_TOLD[name][0]}" for name in _TOLD if name in takes)


def _prefix(app: Application) -> str:
    """Return the function that leaves in memory of its own what stands for an image."""
    buffers = "".join(f"static int8_t {k}[{size}];\n" for k, size in app.latents.items())
    copies = "".join(
        f"    if (!status) memcpy({k}, at(MODEL_PREFIX_{k.upper()}), sizeof {k});\n"
        for k in app.latents
    )
    return _PREFIX.format(
        buffers=buffers,
        element=element(app),
        show=_shown(app, EntryPoint.PREFIX, "pixels"),
        prefix=_called(app, EntryPoint.PREFIX),
        copies=copies,
    )


def _call(app: Application, entry: EntryPoint, i: str) -> str:
    """Return the lines that call an entry point with all that it takes, image and label `i` too."""
    takes = app.program.entries[entry].inputs
    lines = [_shown(app, entry, f"support[{i}]")] if i else []
    label = f"&support_label[{i}], sizeof support_label[{i}]"
    for name, value in {"label": label, **{k: v for k, (_, v) in _TOLD.items()}}.items():
        if name in takes:
            lines.append(f"    memcpy(at(MODEL_{entry.upper()}_{name.upper()}), {value});\n")
    return f"{''.join(lines)}    return {_called(app, entry)};\n"


def _called(app: Application, entry: EntryPoint) -> str:
    rows = f", {reader(app)}" * len(app.program.entries[entry].rows)
    return f"model_{entry}(state, arena{rows})"


def _shown(app: Application, entry: EntryPoint, pixels: str) -> str:
    """Return the lines that show a frame to an entry point, or what stands for it."""
    takes = app.program.entries[entry].inputs
    latents = [k for k in app.latents if k in takes]
    if latents:
        copies = "".join(
            f"    memcpy(at(MODEL_{entry.upper()}_{k.upper()}), {k}, sizeof {k});\n"
            for k in latents
        )
        return _LATENT.format(pixels=pixels) + copies
    where = "" if app.by_rows else f", MODEL_{entry.upper()}_IMAGE"
    return f"    show({pixels}{where});\n"


_BEGIN = """\
/* Generated by kilograd: a small application, complete.
 *
{what} host.c (this machine) and startup.c (a board) print for it. */
#include <string.h>

{includes}
{learning}\
#define CLASSES {classes}
{sizes}
/* All the memory there is: what was learned, and room to work in, which holds nothing between
 * calls. */
static uint32_t state[MODEL_STATE_BYTES / 4], arena[MODEL_ARENA_BYTES / 4];

/* Where something lies in the arena, by its name in model.h. */
static void *at(int32_t offset) {{ return (uint8_t *)arena + offset; }}

static float float_at(int32_t offset) {{
    float x;
    memcpy(&x, at(offset), sizeof x);
    return x;
}}

/* ---- what is printed ---- */

static void print_digits(uint32_t n, int32_t least) {{
    char text[12];
    int32_t first = 11;
    text[first] = 0;
    for (; n || least > 0; n /= 10, least--) text[--first] = (char)('0' + n % 10);
    board_print(text + first);
}}

/* ---- what the program does ---- */

"""

_CONSTANTS = """\
#define PASSES {passes} /* over the support */
#define RATE {rate}
#define SEED {seed}
{group}"""

_FRESH = """\
 * It enrols a few images of each class, says how many others it gets right, trains, enrols anew and
 * says so again.  Its images are in images.h, as frames of a camera; put your own there, or your
 * camera. """

_RECALLS_DRAWN = """\
 * The program starts with what was learned: it says which class an image is of at once.  The images
 * in images.h are drawn, and of none of the classes; `kilograd export --data` puts yours there, or
 * call `predict` with a frame of your camera. """

_RECALLS = """\
 * The program starts with what was learned: it says at once which class the images in images.h are
 * of.  Call `predict` with a frame of your camera. """

_GOES_ON = """\
 * The program starts with what was learned: it says at once which class the images in images.h are
 * of.  Then it learns more from others there, forgets nothing, and says so again.  Call `predict`
 * with a frame of your camera. """

_PREFIX = """\
/* What the layers in front of what learns make of an image.  They never change, so it may be kept
 * for later passes where there is room; here it is computed anew. */
{buffers}
static kg_status run_prefix(const {element} *pixels) {{
{show}    const kg_status status = {prefix};
{copies}    return status;
}}
"""

_LATENT = """\
    const kg_status status = run_prefix({pixels});
    if (status) return status;
"""

_ENROL_IMAGE = """\
static kg_status enrol_image(int32_t i) {{
{enrol}}}

"""

_ENROL = """\
/* Makes the prototypes of all classes anew: the means of what the network sees in the support.
 * Needed before the first prediction, and whenever layers have learned. */
static kg_status enrol(void) {
    kg_status status = model_forget(state, arena);
    for (int32_t i = 0; !status && i < SUPPORT; i++) status = enrol_image(i);
    return status;
}
"""

_ENROL_MORE = """\
/* Adds the support to the prototypes, which keep what they were made of before. */
static kg_status enrol(void) {
    kg_status status = KG_OK;
    for (int32_t i = 0; !status && i < SUPPORT; i++) status = enrol_image(i);
    return status;
}
"""

_PREDICT = """\
/* Says which class a frame shows: that of the largest logit. */
static kg_status predict(const {element} *pixels, int32_t *found) {{
{show}    {infer_}
    *found = 0;
    for (int32_t k = 1; !status && k < CLASSES; k++)
        if (float_at(MODEL_INFER_LOGITS + 4 * k) > float_at(MODEL_INFER_LOGITS + 4 * *found))
            *found = k;
    return status;
}}
""".replace("{infer_}", "const kg_status status = {infer};")

_TEST = """\
/* Tests on images that nothing was learned from. */
static kg_status test(const char *when) {
    uint32_t right = 0;
    for (int32_t i = 0; i < TESTS; i++) {
        int32_t found;
        const kg_status status = predict(tests[i], &found);
        if (status) return status;
        if (found == tests_label[i]) {
{right}\
            continue;
        }
        board_print("  ");
        board_print(names[tests_label[i]]);
        board_print(" is taken for ");
        board_print(found < SHOWN ? names[found] : "a class that was never shown");
        board_print("\\n");
    }
    board_print("accuracy ");
    board_print(when);
    board_print(" training: ");
    print_digits(right, 1);
    board_print(" of ");
    print_digits(TESTS, 1);
    board_print("\\n");
    return KG_OK;
}
"""

_RIGHT = """\
            right++;
"""

_RIGHT_TOO = """\
            right++;
            board_print("  ");
            board_print(names[found]);
            board_print(": right\\n");
"""

_LOOK = """\
/* Says what is seen in drawn pictures, which are of none of the classes. */
static kg_status look(void) {
    board_print("these pictures are drawn; kilograd export --adapted --data puts in yours\\n");
    for (int32_t i = 0; i < TESTS; i++) {
        int32_t found;
        const kg_status status = predict(tests[i], &found);
        if (status) return status;
        board_print("  ");
        board_print(names[tests_label[i]]);
        board_print(" is taken for ");
        board_print(class_names[found]);
        board_print("\\n");
    }
    return KG_OK;
}
"""

_LEARN = """\
/* Learns from an image of the support; the loss is in the arena then. */
static kg_status learn(int32_t i{given}) {{
{step}}}
"""

_ENROL_GRAD = """\
/* The gradient that goes through the prototypes. */
static kg_status enrol_gradient(int32_t i{given}) {{
{enrol_grad}}}
"""

_APPLY = """\
/* Learns from the gradients that were added up. */
static kg_status apply({given}) {{
{apply}}}
"""

_TRAIN = """\
static void print_float(float x) {{
    const uint32_t thousandths = x >= 0 && x < 1e6f ? (uint32_t)(x * 1000 + 0.5f) : 999999999u;
    print_digits(thousandths / 1000, 1);
    board_print(".");
    print_digits(thousandths % 1000, 3);
}}

/* Shuffles the numbers of images. */
static void shuffle(int32_t *order, uint32_t *random) {{
    for (int32_t i = SUPPORT - 1; i > 0; i--) {{
        *random = *random * 1664525u + 1013904223u;
        const int32_t j = (int32_t)((*random >> 16) % (uint32_t)(i + 1)), other = order[j];
        order[j] = order[i];
        order[i] = other;
    }}
}}

/* Passes over the support, each in a new order, at a rate that falls to zero. */
static kg_status train(void) {{
    int32_t order[SUPPORT], clock[2] = {{SEED, 0}}; /* the seed, and the number of the update */
    uint32_t random = SEED;
    for (int32_t i = 0; i < SUPPORT; i++) order[i] = i;
    for (int32_t pass = 0; pass < PASSES; pass++) {{
        const float rate = RATE * (float)(PASSES - pass) / PASSES;
        float sum = 0;
        kg_status status = {enrol};
        shuffle(order, &random);
{updates}\
        if (status) return status;
        board_print("pass ");
        print_digits((uint32_t)pass + 1, 1);
        board_print(": loss ");
        print_float(sum / SUPPORT);
        board_print("\\n");
    }}
    return KG_OK;
}}
"""

_SINGLY = """\
        for (int32_t i = 0; !status && i < SUPPORT; i++) {{
            status = learn(order[i]{given});
            if (!status) sum += float_at(MODEL_STEP_LOSS);
            clock[1]++;
        }}
"""

_IN_GROUPS = """\
        for (int32_t first = 0; !status && first < SUPPORT; first += GROUP) {{
            const int32_t end = first + GROUP < SUPPORT ? first + GROUP : SUPPORT;
            const float share = 1 / (float)(end - first);
{seen}            for (int32_t i = first; !status && i < end; i++) {{
                status = learn(order[i]{step});
{next}                if (!status) sum += float_at(MODEL_STEP_LOSS);
            }}
{again}\
            if (!status) status = apply({apply});
            clock[1]++;
        }}
"""

_THROUGH_PROTOTYPES = """\
            for (int32_t i = 0; !status && i < SUPPORT; i++) status = enrol_gradient(i);
"""

_THROUGH_PROTOTYPES_SEEN = """\
            seen[1] = pass * SUPPORT + first;
            for (int32_t i = 0; !status && i < SUPPORT; i++) {
                status = enrol_gradient(i, seen);
                seen[1]++;
            }
"""

_SEEN = """\
            int32_t seen[2] = {SEED, pass * SUPPORT + first}; /* seed, images so far */
"""
_NEXT_SEEN = """\
                seen[1]++;
"""

_MAIN = """\
/* A number that changes with every bit of the state: compare boards by it. */
static void print_state(void) {{
    const uint8_t *byte = (const uint8_t *)state;
    uint32_t sum = 2166136261u;
    for (int32_t i = 0; i < MODEL_STATE_BYTES; i++) sum = (sum ^ byte[i]) * 16777619u;
    board_print("state: ");
    print_digits(sum, 1);
    board_print("\\n");
}}

int main(void) {{
    kg_status status = model_init(state);
{calls}    if (status) {{
        board_print(kg_status_text(status));
        board_print("\\n");
    }} else {{
        print_state();
    }}
    return (int)status;
}}
"""

BOARD_H = """\
/* What the example asks of where it runs; host.c and startup.c have it. */
#ifndef BOARD_H
#define BOARD_H

void board_print(const char *text);

#endif
"""

HOST_C = """\
/* Generated by kilograd: where the example prints on this machine. */
#include <stdio.h>

#include "board.h"

void board_print(const char *text) { fputs(text, stdout); }
"""

#include "kg_status.h"

#include "kg_math.h"

KG_COLD const char *kg_status_text(kg_status status) {
    static const char *const texts[] = {
        "ok",
        "state or arena is a null pointer",
        "state or arena is not 4-byte aligned",
        "the state is not of this program: call init, or load a state that it has saved",
        "nothing gives the rows of the image",
        "the label is none of the classes, which count from 0",
        "the step of the clock is negative or too large",
        "the rate is not a positive finite number",
        "the share is not above 0 and at most 1",
    };
    const uint32_t at = (uint32_t)status;
    return at < sizeof texts / sizeof *texts ? texts[at] : "no status that is known";
}

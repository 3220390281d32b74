"""The boards: a new one is a value here, and its chip in `chips.py`."""

from __future__ import annotations

import difflib
import re

from kilograd.boards import chips
from kilograd.boards.board import Board, Region
from kilograd.errors import InputError, option

_K = 1 << 10
_M = 1 << 20
_ST, _ARDUINO, _NORDIC, _ADAFRUIT = "STMicroelectronics", "Arduino", "Nordic", "Adafruit"
_MBED = "arduino/ArduinoCore-mbed: variants/"
_FIRST_MEGABYTE = Region(0x08040000, _M - 0x40000, "behind the boot loader")
_BEHIND_UF2 = (
    "arduino/ArduinoCore-samd: variants/feather_m4/linker_scripts/gcc/flash_with_bootloader.ld"
)
_SOFTDEVICE = Region(0x26000, 0xED000 - 0x26000, "behind SoftDevice S140 6")
_NO_HEADER = (
    "the boot ROM wants a header before the program (FlexSPI configuration, image vector table), "
    "which the project does not have: link libmodel.a into a Teensyduino project"
)

BOARDS: tuple[Board, ...] = (
    Board(
        name="stm32f746-disco",
        title="STM32F746G-DISCO",
        maker=_ST,
        chip=chips.STM32F746,
        mhz=216,
        source="UM1907",
    ),
    Board(
        name="nucleo-f746zg",
        title="NUCLEO-F746ZG",
        maker=_ST,
        chip=chips.STM32F746,
        mhz=216,
        source="UM1974",
    ),
    Board(
        name="nucleo-f767zi",
        title="NUCLEO-F767ZI",
        maker=_ST,
        chip=chips.STM32F767,
        mhz=216,
        source="UM1974",
    ),
    Board(
        name="nucleo-h723zg",
        title="NUCLEO-H723ZG",
        maker=_ST,
        chip=chips.STM32H723,
        mhz=550,
        source="UM2407",
    ),
    Board(
        name="stm32h735g-dk",
        title="STM32H735G-DK",
        maker=_ST,
        chip=chips.STM32H723,
        mhz=550,
        source="UM2679",
    ),
    Board(
        name="nucleo-h743zi2",
        title="NUCLEO-H743ZI2",
        maker=_ST,
        chip=chips.STM32H743,
        mhz=480,
        source="UM2407",
    ),
    Board(
        name="stm32h747i-disco",
        title="STM32H747I-DISCO",
        maker=_ST,
        chip=chips.STM32H747,
        mhz=480,
        source="UM2411",
    ),
    Board(
        name="nucleo-f401re",
        title="NUCLEO-F401RE",
        maker=_ST,
        chip=chips.STM32F401,
        mhz=84,
        source="UM1724",
    ),
    Board(
        name="stm32f407g-disc1",
        title="STM32F407G-DISC1",
        maker=_ST,
        chip=chips.STM32F407,
        mhz=168,
        source="UM1472",
    ),
    Board(
        name="nucleo-f411re",
        title="NUCLEO-F411RE",
        maker=_ST,
        chip=chips.STM32F411,
        mhz=100,
        source="UM1724",
    ),
    Board(
        name="stm32f429i-disc1",
        title="STM32F429I-DISC1",
        maker=_ST,
        chip=chips.STM32F429,
        mhz=180,
        source="UM1670",
    ),
    Board(
        name="nucleo-f446re",
        title="NUCLEO-F446RE",
        maker=_ST,
        chip=chips.STM32F446,
        mhz=180,
        source="UM1724",
    ),
    Board(
        name="nucleo-g474re",
        title="NUCLEO-G474RE",
        maker=_ST,
        chip=chips.STM32G474,
        mhz=170,
        source="UM2505",
    ),
    Board(
        name="b-l475e-iot01a",
        title="B-L475E-IOT01A",
        maker=_ST,
        chip=chips.STM32L476,
        mhz=80,
        source="UM2153",
    ),
    Board(
        name="nucleo-l476rg",
        title="NUCLEO-L476RG",
        maker=_ST,
        chip=chips.STM32L476,
        mhz=80,
        source="UM1724",
    ),
    Board(
        name="nucleo-l4r5zi",
        title="NUCLEO-L4R5ZI",
        maker=_ST,
        chip=chips.STM32L4R5,
        mhz=120,
        source="UM2179",
    ),
    Board(
        name="nucleo-l552ze-q",
        title="NUCLEO-L552ZE-Q",
        maker=_ST,
        chip=chips.STM32L552,
        mhz=110,
        source="UM2581",
        note="with TrustZone off, as it comes",
    ),
    Board(
        name="nucleo-u575zi-q",
        title="NUCLEO-U575ZI-Q",
        maker=_ST,
        chip=chips.STM32U575,
        mhz=160,
        source="UM2861",
        note="with TrustZone off, as it comes",
    ),
    Board(
        name="b-u585i-iot02a",
        title="B-U585I-IOT02A",
        maker=_ST,
        chip=chips.STM32U575,
        mhz=160,
        source="UM2839",
        note="with TrustZone off, as it comes",
    ),
    Board(
        name="nucleo-h563zi",
        title="NUCLEO-H563ZI",
        maker=_ST,
        chip=chips.STM32H563,
        mhz=250,
        source="UM3115",
        note="with TrustZone off, as it comes",
    ),
    Board(
        name="nano-33-ble",
        title="Nano 33 BLE",
        maker=_ARDUINO,
        chip=chips.NRF52840,
        mhz=64,
        program=Region(0x10000, 0xF0000, "behind the boot loader"),
        source=f"{_MBED}ARDUINO_NANO33BLE/linker_script.ld",
        note="the Sense and its Rev2 have the same chip",
    ),
    Board(
        name="portenta-h7",
        title="Portenta H7",
        maker=_ARDUINO,
        chip=chips.STM32H747,
        mhz=480,
        program=_FIRST_MEGABYTE,
        source=f"{_MBED}PORTENTA_H7_M7/linker_script.ld",
    ),
    Board(
        name="nicla-vision",
        title="Nicla Vision",
        maker=_ARDUINO,
        chip=chips.STM32H747,
        mhz=480,
        program=_FIRST_MEGABYTE,
        source=f"{_MBED}NICLA_VISION/linker_script.ld",
    ),
    Board(
        name="giga-r1",
        title="GIGA R1 WiFi",
        maker=_ARDUINO,
        chip=chips.STM32H747,
        mhz=480,
        program=_FIRST_MEGABYTE,
        source=f"{_MBED}GIGA/linker_script.ld",
    ),
    Board(
        name="uno-r4",
        title="UNO R4 Minima and WiFi",
        maker=_ARDUINO,
        chip=chips.RA4M1,
        mhz=48,
        program=Region(0x4000, 256 * _K - 0x4000, "behind the boot loader"),
        source="arduino/ArduinoCore-renesas: variants/SANTIAGO/memory_regions.ld "
        "(FLASH_IMAGE_START)",
    ),
    Board(
        name="nrf52-dk",
        title="nRF52 DK",
        maker=_NORDIC,
        chip=chips.NRF52832,
        mhz=64,
        source="nRF52 DK Hardware",
    ),
    Board(
        name="nrf52833-dk",
        title="nRF52833 DK",
        maker=_NORDIC,
        chip=chips.NRF52833,
        mhz=64,
        source="nRF52833 DK Hardware",
    ),
    Board(
        name="nrf52840-dk",
        title="nRF52840 DK",
        maker=_NORDIC,
        chip=chips.NRF52840,
        mhz=64,
        source="nRF52840 DK Hardware",
    ),
    Board(
        name="nrf5340-dk",
        title="nRF5340 DK",
        maker=_NORDIC,
        chip=chips.NRF5340,
        mhz=128,
        source="nRF5340 DK Hardware",
        note="starts at 64 MHz; HFCLKCTRL doubles that",
    ),
    Board(
        name="microbit-v2",
        title="micro:bit v2",
        maker="Micro:bit",
        chip=chips.NRF52833,
        mhz=64,
        source="tech.microbit.org, Hardware, V2",
        note="from address 0: the interface chip writes all of the flash",
    ),
    Board(
        name="xiao-nrf52840",
        title="XIAO nRF52840",
        maker="Seeed",
        chip=chips.NRF52840,
        mhz=64,
        program=Region(0x27000, 0xED000 - 0x27000, "behind SoftDevice S140 7"),
        source="vladkozlov69/Adafruit_nRF52_Arduino: cores/nRF5/linker/nrf52840_s140_v7.ld; its "
        "end as with S140 6",
    ),
    Board(
        name="feather-nrf52840",
        title="Feather nRF52840 Express and Sense",
        maker=_ADAFRUIT,
        chip=chips.NRF52840,
        mhz=64,
        program=_SOFTDEVICE,
        source="adafruit/Adafruit_nRF52_Arduino: cores/nRF5/linker/nrf52840_s140_v6.ld",
    ),
    Board(
        name="feather-m4",
        title="Feather M4 Express",
        maker=_ADAFRUIT,
        chip=chips.SAMD51X19,
        mhz=120,
        program=Region(0x4000, 512 * _K - 0x4000, "behind the boot loader"),
        source=_BEHIND_UF2,
    ),
    Board(
        name="grand-central-m4",
        title="Grand Central M4 Express",
        maker=_ADAFRUIT,
        chip=chips.SAMD51X20,
        mhz=120,
        program=Region(0x4000, _M - 0x4000, "behind the boot loader"),
        source=_BEHIND_UF2,
    ),
    Board(
        name="thing-plus-samd51",
        title="Thing Plus SAMD51",
        maker="SparkFun",
        chip=chips.SAMD51X20,
        mhz=120,
        program=Region(0x4000, _M - 0x4000, "behind the boot loader"),
        source=_BEHIND_UF2,
    ),
    Board(
        name="artemis",
        title="RedBoard Artemis, Artemis Thing Plus and Nano",
        maker="SparkFun",
        chip=chips.APOLLO3,
        mhz=48,
        program=Region(0xC000, 960 * _K, "behind the secure boot loader"),
        source="sparkfun/Arduino_Apollo3: variants/artemis_thing_plus/linker_scripts/gcc/"
        "ambiq_sbl_app.ld",
        note="96 MHz in its burst mode, which is not counted on here",
    ),
    Board(
        name="apollo4p-evb",
        title="Apollo4 Plus EVB",
        maker="Ambiq",
        chip=chips.APOLLO4P,
        mhz=96,
        source="Apollo4 Plus EVB User's Guide",
        note="192 MHz in its high performance mode, which is not counted on here",
    ),
    Board(
        name="xg24-dk2601b",
        title="xG24-DK2601B",
        maker="Silicon Labs",
        chip=chips.EFR32MG24,
        mhz=78,
        source="UG524",
    ),
    Board(
        name="pico-2",
        title="Pico 2 and Pico 2 W",
        maker="Raspberry Pi",
        chip=chips.RP2350,
        mhz=150,
        source="Raspberry Pi Pico 2 Datasheet",
    ),
    Board(
        name="frdm-k64f",
        title="FRDM-K64F",
        maker="NXP",
        chip=chips.MK64F,
        mhz=120,
        source="FRDM-K64F User's Guide",
        note="a watchdog runs after a reset: the application must feed it or switch it off",
    ),
    Board(
        name="lpc55s69-evk",
        title="LPCXpresso55S69",
        maker="NXP",
        chip=chips.LPC55S69,
        mhz=150,
        source="UM11158",
        note="core 1 stays off, and all of the RAM is core 0's",
    ),
    Board(
        name="frdm-mcxn947",
        title="FRDM-MCXN947",
        maker="NXP",
        chip=chips.MCXN947,
        mhz=150,
        source="UM12018",
        note="core 1 stays off, and all of the RAM is core 0's",
    ),
    Board(
        name="ek-ra6m5",
        title="EK-RA6M5",
        maker="Renesas",
        chip=chips.RA6M5,
        mhz=200,
        source="EK-RA6M5 User's Manual",
    ),
    Board(
        name="teensy-4.0",
        title="Teensy 4.0 and 4.1",
        maker="PJRC",
        chip=chips.IMXRT1062,
        mhz=600,
        source="pjrc.com/store/teensy40.html",
        note=_NO_HEADER,
    ),
    Board(
        name="openmv-h7",
        title="OpenMV Cam H7 and H7 Plus",
        maker="OpenMV",
        chip=chips.STM32H743,
        mhz=480,
        program=Region(0x08040000, 2 * _M - 0x40000, "behind the boot loader"),
        source="openmv/openmv: src/omv/boards/OPENMV4/omv_boardconfig.h",
        note="the first 256K are left to the boot loader and its file system",
    ),
)


def find_board(name: str) -> Board:
    """Return the board of a name or title, in whatever case; `InputError` where there is none."""
    wanted = _typed(name)
    for board in BOARDS:
        if wanted in {board.name, _typed(board.title)}:
            return board
    names = [board.name for board in BOARDS]
    near = difflib.get_close_matches(wanted, names, 3, 0.5)
    known = f"perhaps {' or '.join(near)}; " if near else ""
    raise InputError(f"{option('board')} {name}: no such board; {known}kilograd boards lists them")


def _typed(name: str) -> str:
    return re.sub(r"[\s_]+", "-", name.strip()).casefold()

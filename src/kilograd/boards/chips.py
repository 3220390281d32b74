"""Microcontrollers, and where their figures are from."""

from __future__ import annotations

from kilograd.boards.board import Chip, Core, Fpu, Region, Words

_K = 1 << 10
_M = 1 << 20
_ZEPHYR = "zephyrproject-rtos/zephyr: dts/arm/"

STM32F746 = Chip(
    part="STM32F746",
    core=Core.M7,
    fpu=Fpu.SINGLE,
    ram=Region(0x20000000, 320 * _K, "DTCM 64K, SRAM1 240K, SRAM2 16K"),
    other_ram=(Region(0x00000000, 16 * _K, "ITCM"),),
    flash=Region(0x08000000, 1 * _M),
    memory="STMicroelectronics/STM32CubeF7: Projects/STM32746G-Discovery/Templates/SW4STM32/"
    "STM32746G_Discovery_ITCM-FLASH/STM32F746NGHx_FLASH.ld; RM0385, Memory organization",
    manual="data sheet DS10916",
)
STM32F767 = Chip(
    part="STM32F767",
    core=Core.M7,
    fpu=Fpu.DOUBLE,
    ram=Region(0x20000000, 512 * _K, "DTCM 128K, SRAM1 368K, SRAM2 16K"),
    other_ram=(Region(0x00000000, 16 * _K, "ITCM"),),
    flash=Region(0x08000000, 2 * _M),
    memory=f"{_ZEPHYR}st/f7/stm32f767.dtsi, stm32f767Xi.dtsi; RM0410, Memory organization",
    manual="data sheet DS11532",
)
STM32H723 = Chip(
    part="STM32H723",
    core=Core.M7,
    fpu=Fpu.DOUBLE,
    ram=Region(0x24000000, 320 * _K, "AXI SRAM, with the 192K that ITCM may have"),
    other_ram=(
        Region(0x00000000, 64 * _K, "ITCM"),
        Region(0x20000000, 128 * _K, "DTCM"),
        Region(0x30000000, 32 * _K, "SRAM1, SRAM2"),
        Region(0x38000000, 16 * _K, "SRAM4"),
    ),
    flash=Region(0x08000000, 1 * _M),
    memory=f"{_ZEPHYR}st/h7/stm32h723.dtsi, stm32h735Xg.dtsi; RM0468, Memory organization",
    manual="data sheet DS13313; the STM32H735 (DS13312) has the same memory",
)
STM32H743 = Chip(
    part="STM32H743",
    core=Core.M7,
    fpu=Fpu.DOUBLE,
    ram=Region(0x24000000, 512 * _K, "AXI SRAM"),
    other_ram=(
        Region(0x00000000, 64 * _K, "ITCM"),
        Region(0x20000000, 128 * _K, "DTCM"),
        Region(0x30000000, 288 * _K, "SRAM1, SRAM2, SRAM3"),
        Region(0x38000000, 64 * _K, "SRAM4"),
    ),
    flash=Region(0x08000000, 2 * _M),
    memory=f"{_ZEPHYR}st/h7/stm32h743.dtsi, stm32h743Xi.dtsi; RM0433, Memory organization",
    manual="data sheet DS12110",
)
#: The Cortex-M4 beside it starts from the second half of the flash.
STM32H747 = Chip(
    part="STM32H747",
    core=Core.M7,
    fpu=Fpu.DOUBLE,
    ram=Region(0x24000000, 512 * _K, "AXI SRAM"),
    other_ram=(
        Region(0x00000000, 64 * _K, "ITCM"),
        Region(0x20000000, 128 * _K, "DTCM"),
        Region(0x30000000, 288 * _K, "SRAM1, SRAM2, SRAM3"),
        Region(0x38000000, 64 * _K, "SRAM4"),
    ),
    flash=Region(0x08000000, 1 * _M),
    memory=f"{_ZEPHYR}st/h7/stm32h747Xi_m7.dtsi; RM0399, Memory organization",
    manual="data sheet DS12930",
)
STM32F401 = Chip(
    part="STM32F401xE",
    core=Core.M4,
    fpu=Fpu.SINGLE,
    ram=Region(0x20000000, 96 * _K, "SRAM"),
    flash=Region(0x08000000, 512 * _K),
    memory=f"{_ZEPHYR}st/f4/stm32f401Xe.dtsi; RM0368, Memory organization",
    manual="data sheet DS10086",
)
STM32F407 = Chip(
    part="STM32F407xG",
    core=Core.M4,
    fpu=Fpu.SINGLE,
    ram=Region(0x20000000, 128 * _K, "SRAM1 112K, SRAM2 16K"),
    other_ram=(Region(0x10000000, 64 * _K, "CCM"),),
    flash=Region(0x08000000, 1 * _M),
    memory=f"{_ZEPHYR}st/f4/stm32f407Xg.dtsi; RM0090, Memory organization",
    manual="data sheet DS8626",
)
STM32F411 = Chip(
    part="STM32F411xE",
    core=Core.M4,
    fpu=Fpu.SINGLE,
    ram=Region(0x20000000, 128 * _K, "SRAM"),
    flash=Region(0x08000000, 512 * _K),
    memory=f"{_ZEPHYR}st/f4/stm32f411Xe.dtsi; RM0383, Memory organization",
    manual="data sheet DS10314",
)
STM32F429 = Chip(
    part="STM32F429xI",
    core=Core.M4,
    fpu=Fpu.SINGLE,
    ram=Region(0x20000000, 192 * _K, "SRAM1 112K, SRAM2 16K, SRAM3 64K"),
    other_ram=(Region(0x10000000, 64 * _K, "CCM"),),
    flash=Region(0x08000000, 2 * _M),
    memory=f"{_ZEPHYR}st/f4/stm32f429Xi.dtsi; RM0090, Memory organization",
    manual="data sheet DS9405",
)
STM32F446 = Chip(
    part="STM32F446xE",
    core=Core.M4,
    fpu=Fpu.SINGLE,
    ram=Region(0x20000000, 128 * _K, "SRAM1 112K, SRAM2 16K"),
    flash=Region(0x08000000, 512 * _K),
    memory=f"{_ZEPHYR}st/f4/stm32f446Xe.dtsi; RM0390, Memory organization",
    manual="data sheet DS10693",
)
STM32G474 = Chip(
    part="STM32G474xE",
    core=Core.M4,
    fpu=Fpu.SINGLE,
    ram=Region(0x20000000, 128 * _K, "SRAM1 80K, SRAM2 16K, CCM 32K"),
    flash=Region(0x08000000, 512 * _K),
    memory=f"{_ZEPHYR}st/g4/stm32g474Xe.dtsi; RM0440, Memory organization",
    manual="data sheet DS12288",
)
STM32L476 = Chip(
    part="STM32L475/L476xG",
    core=Core.M4,
    fpu=Fpu.SINGLE,
    ram=Region(0x20000000, 96 * _K, "SRAM1"),
    other_ram=(Region(0x10000000, 32 * _K, "SRAM2"),),
    flash=Region(0x08000000, 1 * _M),
    memory=f"{_ZEPHYR}st/l4/stm32l475Xg.dtsi, stm32l476Xg.dtsi; RM0351, Memory organization",
    manual="data sheets DS10969, DS10198",
)
STM32L4R5 = Chip(
    part="STM32L4R5xI",
    core=Core.M4,
    fpu=Fpu.SINGLE,
    ram=Region(0x20000000, 640 * _K, "SRAM1 192K, SRAM2 64K, SRAM3 384K"),
    flash=Region(0x08000000, 2 * _M),
    memory=f"{_ZEPHYR}st/l4/stm32l4r5.dtsi, stm32l4r5Xi.dtsi; RM0432, Memory organization: "
    "SRAM2 is seen at 0x20030000 too, between the others",
    manual="data sheet DS12023",
)
STM32L552 = Chip(
    part="STM32L552xE",
    core=Core.M33,
    fpu=Fpu.SINGLE,
    ram=Region(0x20000000, 256 * _K, "SRAM1 192K, SRAM2 64K"),
    flash=Region(0x08000000, 512 * _K),
    memory=f"{_ZEPHYR}st/l5/stm32l552Xe.dtsi; RM0438, Memory organization",
    manual="data sheet DS12737",
)
STM32U575 = Chip(
    part="STM32U575/U585xI",
    core=Core.M33,
    fpu=Fpu.SINGLE,
    ram=Region(0x20000000, 768 * _K, "SRAM1 192K, SRAM2 64K, SRAM3 512K"),
    other_ram=(Region(0x28000000, 16 * _K, "SRAM4"),),
    flash=Region(0x08000000, 2 * _M),
    memory=f"{_ZEPHYR}st/u5/stm32u575Xi.dtsi; RM0456, Memory organization",
    manual="data sheets DS13737, DS13086",
)
STM32H563 = Chip(
    part="STM32H563xI",
    core=Core.M33,
    fpu=Fpu.SINGLE,
    ram=Region(0x20000000, 640 * _K, "SRAM1 256K, SRAM2 64K, SRAM3 320K"),
    flash=Region(0x08000000, 2 * _M),
    memory="STMicroelectronics/STM32CubeH5: Projects/NUCLEO-H563ZI/Templates/TrustZoneDisabled/"
    "STM32CubeIDE/STM32H563ZITX_FLASH.ld; RM0481, Memory organization",
    manual="data sheet DS14258",
)
NRF52832 = Chip(
    part="nRF52832-QFAA",
    core=Core.M4,
    fpu=Fpu.SINGLE,
    ram=Region(0x20000000, 64 * _K, "RAM"),
    flash=Region(0x00000000, 512 * _K),
    memory=f"{_ZEPHYR}nordic/nrf52832_qfaa.dtsi",
    manual="nRF52832 Product Specification, Memory and CPU",
)
NRF52833 = Chip(
    part="nRF52833-QIAA",
    core=Core.M4,
    fpu=Fpu.SINGLE,
    ram=Region(0x20000000, 128 * _K, "RAM"),
    flash=Region(0x00000000, 512 * _K),
    memory=f"{_ZEPHYR}nordic/nrf52833_qiaa.dtsi",
    manual="nRF52833 Product Specification, Memory and CPU",
)
NRF52840 = Chip(
    part="nRF52840-QIAA",
    core=Core.M4,
    fpu=Fpu.SINGLE,
    ram=Region(0x20000000, 256 * _K, "RAM"),
    flash=Region(0x00000000, 1 * _M),
    memory=f"{_ZEPHYR}nordic/nrf52840_qiaa.dtsi",
    manual="nRF52840 Product Specification, Memory and CPU",
)
NRF5340 = Chip(
    part="nRF5340-QKAA, application core",
    core=Core.M33,
    fpu=Fpu.SINGLE,
    ram=Region(0x20000000, 512 * _K, "RAM"),
    flash=Region(0x00000000, 1 * _M),
    memory=f"{_ZEPHYR}nordic/nrf5340_cpuapp_qkaa.dtsi",
    manual="nRF5340 Product Specification, Application core",
)
RA4M1 = Chip(
    part="R7FA4M1AB",
    core=Core.M4,
    fpu=Fpu.SINGLE,
    ram=Region(0x20000000, 32 * _K, "SRAM"),
    flash=Region(0x00000000, 256 * _K),
    memory="arduino/ArduinoCore-renesas: variants/SANTIAGO/memory_regions.ld; "
    f"{_ZEPHYR}renesas/ra/ra4/r7fa4m1ax.dtsi",
    manual="RA4M1 Group User's Manual: Hardware",
)
RA6M5 = Chip(
    part="R7FA6M5BH",
    core=Core.M33,
    fpu=Fpu.SINGLE,
    ram=Region(0x20000000, 512 * _K, "SRAM0"),
    flash=Region(0x00000000, 2 * _M),
    memory=f"{_ZEPHYR}renesas/ra/ra6/r7fa6m5xh.dtsi",
    manual="RA6M5 Group User's Manual: Hardware",
)
SAMD51X19 = Chip(
    part="ATSAMD51x19",
    core=Core.M4,
    fpu=Fpu.SINGLE,
    ram=Region(0x20000000, 192 * _K, "SRAM"),
    flash=Region(0x00000000, 512 * _K),
    memory=f"{_ZEPHYR}atmel/samd5xx19.dtsi",
    manual="SAM D5x/E5x Family Data Sheet DS60001507",
)
SAMD51X20 = Chip(
    part="ATSAMD51x20",
    core=Core.M4,
    fpu=Fpu.SINGLE,
    ram=Region(0x20000000, 256 * _K, "SRAM"),
    flash=Region(0x00000000, 1 * _M),
    memory=f"{_ZEPHYR}atmel/samd5xx20.dtsi",
    manual="SAM D5x/E5x Family Data Sheet DS60001507",
)
APOLLO3 = Chip(
    part="AMA3B1KK",
    core=Core.M4,
    fpu=Fpu.SINGLE,
    ram=Region(0x10000000, 384 * _K, "TCM 64K, SRAM 320K"),
    flash=Region(0x00000000, 1 * _M),
    memory="sparkfun/Arduino_Apollo3: variants/artemis_thing_plus/linker_scripts/gcc/"
    "ambiq_sbl_app.ld",
    manual="Apollo3 Blue SoC Datasheet",
)
APOLLO4P = Chip(
    part="AMAP42KK",
    core=Core.M4,
    fpu=Fpu.SINGLE,
    ram=Region(0x10000000, 2816 * _K, "TCM and shared SRAM"),
    flash=Region(0x00018000, 0x1E8000, "MRAM behind the secure boot loader"),
    memory=f"{_ZEPHYR}ambiq/ambiq_apollo4p.dtsi",
    manual="Apollo4 Plus SoC Datasheet",
)
EFR32MG24 = Chip(
    part="EFR32MG24B310F1536IM48",
    core=Core.M33,
    fpu=Fpu.SINGLE,
    ram=Region(0x20000000, 256 * _K, "RAM"),
    flash=Region(0x08000000, 1536 * _K),
    memory=f"{_ZEPHYR}silabs/efr32mg24b310f1536im48.dtsi",
    manual="EFR32MG24 data sheet",
)
RP2350 = Chip(
    part="RP2350, Arm cores",
    core=Core.M33,
    fpu=Fpu.SINGLE,
    ram=Region(0x20000000, 512 * _K, "SRAM0 to SRAM7"),
    other_ram=(Region(0x20080000, 8 * _K, "SRAM8, SRAM9: scratch"),),
    flash=Region(0x10000000, 4 * _M, "external, on the board"),
    memory="raspberrypi/pico-sdk: src/rp2_common/pico_crt0/rp2350/memory_ram.ld; RP2350 "
    "Datasheet, Address map",
    manual="RP2350 Datasheet",
    boot=Words(
        0x200,
        (0xFFFFDED3, 0x10210142, 0x000001FF, 0x00000000, 0xAB123579),
        "the smallest IMAGE_DEF for Arm (RP2350 Datasheet, 5.9.5.1)",
    ),
)
MK64F = Chip(
    part="MK64FN1M0VLL12",
    core=Core.M4,
    fpu=Fpu.SINGLE,
    ram=Region(0x20000000, 192 * _K, "SRAM_U"),
    other_ram=(Region(0x1FFF0000, 64 * _K, "SRAM_L: no access may cross into SRAM_U"),),
    flash=Region(0x00000000, 1 * _M),
    memory="nxp-mcuxpresso/mcux-sdk: devices/MK64F12/gcc/MK64FN1M0xxx12_flash.ld; "
    "K64P144M120SF5RM, Memory Map",
    manual="K64P144M120SF5RM",
    boot=Words(
        0x400,
        (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFE),
        "the flash configuration field: not secured (K64P144M120SF5RM, FTFE)",
    ),
)
LPC55S69 = Chip(
    part="LPC55S69, core 0",
    core=Core.M33,
    fpu=Fpu.SINGLE,
    ram=Region(0x20000000, 272 * _K, "SRAM 0 to SRAM 4"),
    other_ram=(
        Region(0x04000000, 32 * _K, "SRAM X"),
        Region(0x40100000, 16 * _K, "USB SRAM"),
    ),
    flash=Region(0x00000000, 630 * _K),
    memory="nxp-mcuxpresso/mcux-sdk: devices/LPC55S69/gcc/LPC55S69_cm33_core0_flash.ld (which "
    "leaves 68K of RAM to core 1); UM11126, Memory map",
    manual="UM11126",
)
MCXN947 = Chip(
    part="MCXN947, core 0",
    core=Core.M33,
    fpu=Fpu.SINGLE,
    ram=Region(0x20000000, 416 * _K, "RAM A to RAM H"),
    other_ram=(Region(0x04000000, 96 * _K, "RAM X"),),
    flash=Region(0x00000000, 2 * _M),
    memory="nxp-mcuxpresso/mcux-sdk: devices/MCXN947/gcc/MCXN947_cm33_core0_flash.ld (which "
    "leaves 104K of RAM to core 1); MCX Nx4x Reference Manual, Memory map",
    manual="MCX Nx4x Reference Manual",
)
IMXRT1062 = Chip(
    part="MIMXRT1062",
    core=Core.M7,
    fpu=Fpu.DOUBLE,
    ram=Region(0x20200000, 512 * _K, "OCRAM2"),
    other_ram=(Region(0x20000000, 512 * _K, "ITCM and DTCM, divided at run time"),),
    flash=Region(0x60002000, 2 * _M - 0x12000, "external, on the board, behind a boot header"),
    memory="PaulStoffregen/cores: teensy4/imxrt1062.ld; IMXRT1060RM, Memory map",
    manual="IMXRT1060RM",
)

"""Boards: what can be bought, with its RAM, flash and clock, and where each figure is from."""

from kilograd.boards.board import Board, Chip, Core, Fpu, Region, Words
from kilograd.boards.known import BOARDS, find_board

__all__ = ["BOARDS", "Board", "Chip", "Core", "Fpu", "Region", "Words", "find_board"]

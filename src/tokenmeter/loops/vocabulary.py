"""Words: where one ends, how much of it counts, and which of them say nothing."""

from __future__ import annotations

from typing import Final

from tokenmeter.loops.loosely import LOWER

WORDS_BYTES: Final = 1_600
"""How much of a text is taken by its words."""

STEM_BYTES: Final = 6

_MARKS: Final = b"\"'.,;:!?()[]{}<>*_-/\\|\n\t\r"
APART: Final = LOWER.translate(bytes.maketrans(_MARKS, b" " * len(_MARKS)))
"""A table for `bytes.translate`: small letters, and a space for each mark."""

EMPTY_WORDS: Final = frozenset(
    b"""
    a an the and or but so as at by for from in into of on off out over to up with about again also then than that
    this these those there here it its is isn t s re ve ll d m are was were be been being am i me my mine you your
    yours we us our they them their he she his her him do does did doing done don have has had having can could may
    might must shall should will would won wouldn not no yes yeah yep nope ok okay if when while what which who how
    why where any some all just only very much more most too well now still yet already soon later back else ever
    always really quite oh ah hm hmm um let lets let's get got go goes going make take see look looking know think
    guess suppose please kindly thank thanks thankful sorry apologies apologize apologise regret hello hi hey dear
    greetings good great nice fine perfect excellent wonderful lovely awesome fantastic amazing day evening morning
    afternoon night weekend week bye goodbye farewell cheers welcome pleasure glad happy delighted pleased enjoy
    care safe best wishes regards sure certainly course absolutely definitely indeed right understood noted alright
    agreed exactly gladly anytime appreciate appreciated appreciation grateful kind kindness help helped helping
    helpful assist assistance assisting support anything something everything nothing need needs needed want wish
    hope mind like once more said say says tell told ask asked asking mention mentioned repeat repeating moment
    moments minute minutes second seconds bit while little time wait waiting hold holding patience patient bear
    stand stay tuned standby one update updates updated updating news status progress change changed changes check
    checked checking recheck double work working works busy continue continuing continued proceed proceeding process
    processing pending underway ongoing hang tight keep keeping posted inform informed notify notified shortly
    momentarily ready complete completed completion finished finish finishing hear heard reply respond response
    forward touch feel free further question questions chat talk talking reach contact far long quick quickly first
    next last another same try trying tried come coming came through
    """.split()
)

"""The command line: one thin command a verb, no logic.

    sharp-mobile plan MODEL        which layers share, τ and s
    sharp-mobile size MODEL        bytes of an export, in the file and in memory, before it is made
    sharp-mobile recover MODEL     fit the recovery parameters, write a SHARP checkpoint
    sharp-mobile export MODEL      the above as needed, then model.pte with its manifest, checked
    sharp-mobile inspect PTE       what a .pte holds, and whether it is sound
    sharp-mobile evaluate MODEL    perplexity or task scores, of checkpoints, their quantized form, and .pte files
    sharp-mobile bench EXPORT      load time, latency and memory of exports; against a memory limit; on a phone
    sharp-mobile generate PTE      generate text with a .pte
    sharp-mobile study fig4 MODEL  how much each layer's MLP matters: a JSON and a picture
    sharp-mobile reproduce table4  the paper's tables and figures, on any model
    sharp-mobile prepack EXPORT    pack an export's weights before its first launch on a phone
    sharp-mobile merge CHECKPOINT  a SHARP checkpoint as a plain Hugging Face model
    sharp-mobile compare A B       exports and their measurements, side by side
    sharp-mobile check EXPORT      compare an export and its results with the budgets of its recipe

MODEL is the name of a recipe in export/, a recipe file, a Hugging Face directory, a hub id, a .gguf file or a SHARP
checkpoint.
"""

from sharp_mobile.cli.main import main

__all__ = ["main"]

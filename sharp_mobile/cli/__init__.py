"""The command line: thin commands without logic.

    sharp-mobile plan MODEL        show which layers share, τ and s
    sharp-mobile size MODEL        predict the bytes of an export, in the file and in memory
    sharp-mobile recover MODEL     fit the recovery parameters, write a SHARP checkpoint
    sharp-mobile export MODEL      plan and recover as needed, then write and check model.pte with its manifest
    sharp-mobile inspect PTE       list the contents of a .pte and check them
    sharp-mobile evaluate MODEL    measure perplexity or task scores of a checkpoint, its quantized form, or a .pte
    sharp-mobile bench EXPORT      measure load time, latency and memory, also under a memory limit and on a phone
    sharp-mobile generate PTE      generate text with a .pte
    sharp-mobile study fig4 MODEL  measure how much each layer's MLP matters: a JSON and a picture
    sharp-mobile reproduce table4  repeat the paper's tables and figures on any model
    sharp-mobile prepack EXPORT    pack an export's weights before its first launch on a phone
    sharp-mobile merge CHECKPOINT  convert a SHARP checkpoint to a plain Hugging Face model
    sharp-mobile compare A B       show exports and their measurements side by side
    sharp-mobile check EXPORT      compare an export and its results with the budgets of its recipe

MODEL is the name of a recipe in export/, a recipe file, a Hugging Face directory, a hub id, a .gguf file or a SHARP
checkpoint.
"""

from sharp_mobile.cli.main import main

__all__ = ["main"]

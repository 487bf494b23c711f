#include "Threads.h"

/* A stand-in for NVIDIA's driver: the cards are those of STUB_CARDS, like "8.6 RTX 3090;9.0 H100". */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int card(int index, int *major, int *minor, char *name)
{
    const char *at = getenv("STUB_CARDS");
    for (int i = 0; at && *at; i++) {
        char line[256] = "";
        sscanf(at, "%255[^;]", line);
        if (i == index)
            return sscanf(line, "%d.%d %255[^\n]", major, minor, name) == 3;
        at += strlen(line) + (at[strlen(line)] == ';');
    }
    return 0;
}

static int count(void)
{
    int n = 0, major, minor;
    char name[256];
    while (card(n, &major, &minor, name))
        n++;
    return n;
}

int cuInit(unsigned flags)
{
    const char *failure = getenv("STUB_ERROR");
    (void)flags;
    return failure ? atoi(failure) : count() ? 0 : 100;
}

int cuDriverGetVersion(int *version) { *version = 12020; return 0; }
int cuDeviceGetCount(int *n) { *n = count(); return 0; }
int cuDeviceGet(int *device, int index) { *device = index; return 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { (void)device; *bytes = (size_t)24 << 30; return 0; }

int cuDeviceGetName(char *name, int length, int device)
{
    int major, minor;
    char text[256];
    card(device, &major, &minor, text);
    snprintf(name, length, "%s", text);
    return 0;
}

int cuDeviceGetPCIBusId(char *bus, int length, int device)
{
    snprintf(bus, length, "0000:%02X:00.0", device + 1);
    return 0;
}

int cuDeviceGetAttribute(int *value, int attribute, int device)
{
    int major, minor;
    char name[256];
    card(device, &major, &minor, name);
    *value = attribute == 75 ? major : attribute == 76 ? minor : 0;
    return 0;
}

/* What else MXNet's CUDA wheels want to find when they are loaded; nothing of it is ever called. */
#define ABSENT(name) int name(void) { return 999; }
ABSENT(cuDevicePrimaryCtxRetain)
ABSENT(cuGetErrorString)
ABSENT(cuGraphKernelNodeGetParams)
ABSENT(cuGraphNodeGetType)
ABSENT(cuLaunchKernel)
ABSENT(cuModuleGetFunction)
ABSENT(cuModuleLoadData)
ABSENT(cuModuleLoadDataEx)
ABSENT(cuModuleUnload)

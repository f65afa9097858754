/*
 * dbghelp.dll with the one function that gRPC's library asks it for, to name functions in a stack trace when it crashes.
 *
 * Not every nanoserver is known to have dbghelp.dll, and without one gRPC cannot be loaded at all.  This one knows no names.
 */
#include <windows.h>

__declspec(dllexport) BOOL WINAPI SymFromAddr(HANDLE process, DWORD64 address, DWORD64 *displacement, void *symbol)
{
    (void)process, (void)address, (void)displacement, (void)symbol;
    SetLastError(ERROR_MOD_NOT_FOUND);
    return FALSE;
}

BOOL WINAPI DllMainCRTStartup(HINSTANCE self, DWORD reason, void *reserved)
{
    (void)self, (void)reason, (void)reserved;
    return TRUE;
}

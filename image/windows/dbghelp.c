/*
 * dbghelp.dll with the one function that gRPC's library imports from it, to name functions in the stack trace of a crash.
 *
 * Not every nanoserver may have dbghelp.dll, and without it gRPC cannot be loaded.  This one finds no names.
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

/*
 * livenessprobe.exe: Python and the sidecar in one process, from the folder `python` beside this file.
 *
 * One process, because the container's stop and Ctrl-C reach only the started process, and its exit code is the
 * container's.  Beside this file, because an image's root is C:\ in one container and C:\hpc in another.  It needs only
 * KERNEL32 and the C runtime, since nanoserver has little more.
 */
#include <stdio.h>
#include <stdlib.h>
#include <wchar.h>
#include <windows.h>

#define LONGEST 32768 /* characters in a path */

int _dowildcard = 0; /* otherwise mingw's runtime would replace arguments with a * by file names */

typedef int (*py_main)(int, wchar_t **);

static int fail(const char *what, const wchar_t *where)
{
    fprintf(stderr, "livenessprobe.exe: %s %ls: Windows error %lu; the image is incomplete\n", what, where, GetLastError());
    return 1;
}

int wmain(int argc, wchar_t **argv)
{
    static wchar_t path[LONGEST];
    DWORD length = GetModuleFileNameW(NULL, path, LONGEST);
    wchar_t *name = length && length < LONGEST ? wcsrchr(path, L'\\') : NULL;
    if (!name || name - path + wcslen(L"\\python\\" PYTHON_DLL) >= LONGEST)
        return fail("cannot find its own folder", path);
    wcscpy(name, L"\\python\\" PYTHON_DLL);

    /* The search for DLLs begins in that folder, which also has vcruntime140.dll. */
    HMODULE python = LoadLibraryExW(path, NULL, LOAD_WITH_ALTERED_SEARCH_PATH);
    if (!python)
        return fail("cannot load", path);
    py_main run = (py_main)(void *)GetProcAddress(python, "Py_Main");
    if (!run)
        return fail("finds no Py_Main in", path);

    /* Isolated from variables, the working directory and a user's packages; UTF-8; unbuffered output. */
    wchar_t *first[] = {argv[0], L"-I", L"-X", L"utf8", L"-u", L"-m", L"livenessprobe"};
    int count = sizeof first / sizeof *first;
    wchar_t **all = calloc(count + argc, sizeof *all);
    if (!all)
        return fail("has no memory for the arguments of", argv[0]);
    memcpy(all, first, sizeof first);
    memcpy(all + count, argv + 1, (argc - 1) * sizeof *all);
    return run(count + argc - 1, all);
}

/*
 * WinSock with unix sockets, for wine, which has none: WSASocket(AF_UNIX) fails there with 10047.
 *
 * gRPC's library is patched to load this file instead of WS2_32.dll (see `setup`); afunix.def forwards all other functions to
 * the real one.  A unix socket is a TCP socket on loopback whose port is written in the "socket file", so that a missing,
 * left-over or replaced file has the effects of a socket file.  PYTHON_AFUNIX_LOG names a file that gets each path to which gRPC
 * connects, byte for byte.
 */
#include <winsock2.h>
#include <mswsock.h>
#include <afunix.h>
#include <stdio.h>

#define SOCKETS 1024

static struct { SOCKET socket; char path[UNIX_PATH_MAX]; } unix_sockets[SOCKETS];
static SRWLOCK lock = SRWLOCK_INIT;
static LPFN_CONNECTEX real_connect;

/* The entry of `socket`, or -1 if it is no unix socket; for socket 0 a free entry. */
static int find(SOCKET socket)
{
    for (int entry = 0; entry < SOCKETS; entry++)
        if (unix_sockets[entry].socket == socket)
            return entry;
    return -1;
}

static int look_up(SOCKET socket)
{
    AcquireSRWLockShared(&lock);
    int entry = find(socket);
    ReleaseSRWLockShared(&lock);
    return entry;
}

SOCKET WSAAPI unix_WSASocketA(int family, int type, int protocol, WSAPROTOCOL_INFOA *info, GROUP group, DWORD flags)
{
    SOCKET made = WSASocketA(family == AF_UNIX ? AF_INET : family, type, protocol, info, group, flags);
    if (family == AF_UNIX && made != INVALID_SOCKET) {
        AcquireSRWLockExclusive(&lock);
        int entry = find(0);
        if (entry >= 0) {
            unix_sockets[entry].socket = made;
            unix_sockets[entry].path[0] = 0;
        }
        ReleaseSRWLockExclusive(&lock);
    }
    return made;
}

int WSAAPI unix_closesocket(SOCKET socket)
{
    AcquireSRWLockExclusive(&lock);
    int entry = find(socket);
    if (entry >= 0)
        unix_sockets[entry].socket = 0;
    ReleaseSRWLockExclusive(&lock);
    return closesocket(socket);
}

static HANDLE open_file(const char *path, DWORD access, DWORD how)
{
    wchar_t wide[UNIX_PATH_MAX];
    if (!MultiByteToWideChar(CP_UTF8, 0, path, -1, wide, UNIX_PATH_MAX))
        return INVALID_HANDLE_VALUE;
    return CreateFileW(wide, access, FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE, NULL, how, 0, NULL);
}

int WSAAPI unix_bind(SOCKET socket, const struct sockaddr *address, int length)
{
    int entry = look_up(socket);
    if (entry < 0)
        return bind(socket, address, length);
    struct sockaddr_in loopback = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int size = sizeof loopback;
    if (bind(socket, (struct sockaddr *)&loopback, size) || getsockname(socket, (struct sockaddr *)&loopback, &size))
        return SOCKET_ERROR;
    const char *path = ((const struct sockaddr_un *)address)->sun_path;
    if (length <= (int)sizeof(struct sockaddr) || !*path)
        return 0; /* a client's own end, without a name */
    HANDLE file = open_file(path, GENERIC_WRITE, CREATE_NEW);
    if (file == INVALID_HANDLE_VALUE) {
        WSASetLastError(GetLastError() == ERROR_FILE_EXISTS ? WSAEADDRINUSE : WSAEACCES);
        return SOCKET_ERROR;
    }
    DWORD written;
    WriteFile(file, &loopback.sin_port, sizeof loopback.sin_port, &written, NULL);
    CloseHandle(file);
    strncpy(unix_sockets[entry].path, path, UNIX_PATH_MAX - 1);
    return 0;
}

/* gRPC reads the family of the sockets that it accepts here. */
int WSAAPI unix_getsockname(SOCKET socket, struct sockaddr *address, int *length)
{
    int entry = look_up(socket);
    if (entry < 0 || *length < (int)sizeof(struct sockaddr_un))
        return getsockname(socket, address, length);
    struct sockaddr_un *name = (struct sockaddr_un *)address;
    name->sun_family = AF_UNIX;
    strcpy(name->sun_path, unix_sockets[entry].path);
    *length = sizeof *name;
    return 0;
}

static void note(const char *path)
{
    char name[MAX_PATH];
    FILE *file = GetEnvironmentVariableA("PYTHON_AFUNIX_LOG", name, sizeof name) ? fopen(name, "ab") : NULL;
    if (file) {
        fprintf(file, "%s\n", path);
        fclose(file);
    }
}

static BOOL PASCAL unix_connect(SOCKET socket, const struct sockaddr *address, int length, void *data, DWORD size,
                                DWORD *sent, OVERLAPPED *overlapped)
{
    if (address->sa_family != AF_UNIX)
        return real_connect(socket, address, length, data, size, sent, overlapped);
    struct sockaddr_un named = {0};
    memcpy(&named, address, min(length, (int)sizeof named));
    note(named.sun_path);
    struct sockaddr_in loopback = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    DWORD got = 0;
    HANDLE file = open_file(named.sun_path, GENERIC_READ, OPEN_EXISTING);
    if (file != INVALID_HANDLE_VALUE) {
        ReadFile(file, &loopback.sin_port, sizeof loopback.sin_port, &got, NULL);
        CloseHandle(file);
    }
    if (got != sizeof loopback.sin_port) {
        WSASetLastError(WSAECONNREFUSED); /* which Windows also returns for a missing file */
        return FALSE;
    }
    return real_connect(socket, (struct sockaddr *)&loopback, sizeof loopback, data, size, sent, overlapped);
}

int WSAAPI unix_WSAIoctl(SOCKET socket, DWORD code, void *in, DWORD in_size, void *out, DWORD out_size, DWORD *returned,
                         WSAOVERLAPPED *overlapped, LPWSAOVERLAPPED_COMPLETION_ROUTINE done)
{
    static const GUID connect_ex = WSAID_CONNECTEX;
    int result = WSAIoctl(socket, code, in, in_size, out, out_size, returned, overlapped, done);
    if (!result && code == SIO_GET_EXTENSION_FUNCTION_POINTER && !memcmp(in, &connect_ex, sizeof connect_ex)) {
        real_connect = *(LPFN_CONNECTEX *)out;
        *(LPFN_CONNECTEX *)out = unix_connect;
    }
    return result;
}

//! How much the system takes of what it cannot send yet.
//!
//! What it has taken it sends, also when its caller has given it up; and a write that arrives long after that is carried out over what its caller has written since. So it
//! takes little, and the rest stays where what has ended is left out.

use socket2::SockRef;

/// Most bytes that the system takes beyond what is on its way (`TCP_NOTSENT_LOWAT`).
const UNSENT_BYTES: u32 = 64 * 1024;

/// Has a socket keep to that. It fails on one that is closed already, and there is no such bound where the system has none.
pub(crate) fn bound(socket: &SockRef<'_>) {
    #[cfg(target_os = "linux")]
    let _ = socket.set_tcp_notsent_lowat(UNSENT_BYTES);
    #[cfg(not(target_os = "linux"))]
    let _ = (socket, UNSENT_BYTES);
}

//! The first bytes of an MQTT connection, as a target (`crate::fuzz`).

use std::{
    future::Future,
    pin::{Pin, pin},
    task,
};

use super::*;

/// As much as a CONNECT may have here.
const LIMIT: usize = 16 << 10;

/// Gives these bytes in pieces of at most so many, then ends.
struct Pieces<'a>(&'a [u8], usize);

impl AsyncRead for Pieces<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut task::Context<'_>, buf: &mut tokio::io::ReadBuf<'_>) -> task::Poll<std::io::Result<()>> {
        let (now, later) = self.0.split_at(self.0.len().min(self.1).min(buf.remaining()));
        buf.put_slice(now);
        self.0 = later;
        task::Poll::Ready(Ok(()))
    }
}

/// What the first packet is, with all that came behind it.
fn open(bytes: &[u8], piece: usize) -> Result<Opening, Garbage> {
    let mut pieces = Pieces(bytes, piece);
    let opening = pin!(read_opening(&mut pieces, LIMIT)).poll(&mut task::Context::from_waker(task::Waker::noop()));
    match opening {
        task::Poll::Ready(Ok(Opening::Connect(connect, behind))) => Ok(Opening::Connect(connect, [&behind, pieces.0].concat().into())),
        task::Poll::Ready(other) => other,
        task::Poll::Pending => panic!("it waits for bytes, though none come"),
    }
}

/// What is read. (Properties are written in any order, so the bytes are sorted.)
fn kind(opening: &Result<Opening, Garbage>) -> String {
    match opening {
        Ok(Opening::Connect(connect, behind)) => {
            let mut bytes = BytesMut::new();
            let written = connect.encode(&mut bytes).map_err(|error| error.to_string());
            bytes.sort_unstable();
            format!("{written:?} {} {:?} {bytes:?} {behind:?}", connect.client_id, connect.username)
        }
        Ok(Opening::OtherVersion(answer)) => format!("{answer:?}"),
        Err(garbage) => format!("{garbage:?}"),
    }
}

/// However the bytes come, they say the same; and what the router gets is that CONNECT again, under the client's name, without credentials.
pub(crate) fn connect(bytes: &[u8]) -> bool {
    let whole = open(bytes, usize::MAX);
    assert_eq!(kind(&whole), kind(&open(bytes, 1)), "byte by byte it is read differently");
    let Ok(Opening::Connect(connect, behind)) = whole else { return false };
    assert!(bytes.ends_with(&behind) && matches!(connect.protocol_version, 4 | 5));
    let asked = request(&connect, ([127, 0, 0, 1], 1).into());
    assert_eq!((asked.client_id, asked.password), (&*connect.client_id, connect.password.as_deref()));
    let version = connect.protocol_version;
    let (will, keep_alive, clean) = (connect.will.is_some(), connect.keep_alive, connect.clean_start);
    let id = library_id(&connect.client_id);
    let Ok(written) = rewritten(*connect, &id, &behind) else { return true };
    match open(&written, usize::MAX) {
        Ok(Opening::Connect(again, still_behind)) => {
            assert_eq!((&*again.client_id, again.username, again.password), (&*id, None, None));
            assert_eq!(
                (again.protocol_version, again.will.is_some(), again.keep_alive, again.clean_start),
                (version, will, keep_alive, clean)
            );
            assert_eq!(still_behind, behind);
        }
        // The client's name is longer by a character.
        Err(Garbage::TooLong) => assert!(bytes.len() >= LIMIT - 4),
        other => panic!("what was written for the router is not read: {}", kind(&other)),
    }
    true
}

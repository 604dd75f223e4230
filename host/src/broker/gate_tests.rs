use std::{pin::Pin, task};

use super::*;

/// A CONNECT of `version` as `client`, without anything else.
fn connect(version: u8, client: &str) -> Vec<u8> {
    let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', version, 2, 0, 60];
    if version == 5 {
        body.push(0);
    }
    body.extend((client.len() as u16).to_be_bytes());
    body.extend(client.as_bytes());
    [vec![0x10, body.len() as u8], body].concat()
}

/// Gives its bytes one at a time, then ends.
struct Drip<'a>(&'a [u8]);

impl AsyncRead for Drip<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut task::Context<'_>, buf: &mut tokio::io::ReadBuf<'_>) -> task::Poll<std::io::Result<()>> {
        if let Some((first, rest)) = self.0.split_first() {
            buf.put_slice(&[*first]);
            self.0 = rest;
        }
        task::Poll::Ready(Ok(()))
    }
}

async fn open(bytes: &[u8]) -> Result<Opening, Garbage> {
    read_opening(&mut &*bytes, 64).await
}

#[tokio::test]
async fn a_connect_is_read_and_what_came_behind_it_is_kept() {
    for version in [4, 5] {
        let bytes = [connect(version, "dev"), b"more".to_vec()].concat();
        let Ok(Opening::Connect(read, behind)) = open(&bytes).await else { panic!("version {version}") };
        assert_eq!((read.protocol_version, &*read.client_id, &*behind), (version, "dev", &b"more"[..]));
        let bytes = connect(version, "dev");
        let Ok(Opening::Connect(read, behind)) = read_opening(&mut Drip(&bytes), 64).await else { panic!("version {version}") };
        assert_eq!((&*read.client_id, behind.len()), ("dev", 0));
    }
}

#[tokio::test]
async fn garbage_is_told_apart() {
    let whole = connect(4, "dev");
    assert_eq!(open(&[]).await.unwrap_err(), Garbage::Ended);
    assert_eq!(open(&whole[..whole.len() - 1]).await.unwrap_err(), Garbage::Ended);
    assert_eq!(open(b"GET / HTTP/1.1\r\n").await.unwrap_err(), Garbage::NotConnect);
    assert_eq!(open(&[0x11, 12]).await.unwrap_err(), Garbage::NotConnect);
    assert_eq!(open(&[0x10, 0xff, 0xff, 0xff, 0x7f]).await.unwrap_err(), Garbage::TooLong);
    assert_eq!(open(&[0x10, 65]).await.unwrap_err(), Garbage::TooLong);
    assert_eq!(open(&[0x10, 0x80, 0x80, 0x80, 0x80, 1]).await.unwrap_err(), Garbage::Malformed);
    let mut longer = whole.clone();
    longer[1] += 1;
    longer.push(0);
    assert_eq!(open(&longer).await.unwrap_err(), Garbage::Malformed);
    let mut reserved_flag = whole;
    reserved_flag[9] |= 1;
    assert_eq!(open(&reserved_flag).await.unwrap_err(), Garbage::Malformed);
    assert_eq!(open(&[0x10, 7, 0, 4, b'M', b'Q', b'T', b'X', 4]).await.unwrap_err(), Garbage::Malformed);
}

#[tokio::test]
async fn no_prefix_and_no_single_changed_byte_of_a_connect_panics() {
    let whole = connect(5, "device");
    for n in 0..whole.len() {
        assert!(open(&whole[..n]).await.is_err());
        for byte in 0..=u8::MAX {
            let mut changed = whole.clone();
            changed[n] = byte;
            drop(open(&changed).await);
        }
    }
}

#[test]
fn the_rewritten_connect_names_the_client_and_holds_no_credentials() {
    for (level, properties) in [(4, &[][..]), (5, &[5, 0x11, 0, 0, 0, 9][..])] {
        let will = if level == 5 { &[5, 0x18, 0, 0, 0, 7][..] } else { &[] };
        let body = [
            &[0, 4, b'M', b'Q', b'T', b'T', level, 0b1110_1110, 0, 60][..],
            properties,
            &[0, 0],
            will,
            &[0, 2, b'/', b'w', 0, 1, b'x', 0, 4],
            b"user",
            &[0, 5],
            b"token",
        ]
        .concat();
        let header = FixedHeader::new(PacketType::Connect, 0, body.len() as u32);
        let read = ConnectPacket::decode_body(&mut &*body, &header).unwrap();
        let bytes = rewritten(read, "dev", b"behind").unwrap();
        let expected = [
            &[0, 4, b'M', b'Q', b'T', b'T', level, 0b0010_1110, 0, 60][..],
            properties,
            &[0, 3, b'd', b'e', b'v'],
            will,
            &[0, 2, b'/', b'w', 0, 1, b'x'],
        ]
        .concat();
        assert_eq!(bytes, [&[0x10, expected.len() as u8][..], &expected, b"behind"].concat());
    }
}

#[test]
fn the_library_gets_ids_that_it_takes_and_that_stay_apart() {
    for id in [".", "..", "cert:x", "$.", "$", "$$", "plain", "späce unit", "客户端", "%2E"] {
        let known_as = library_id(id);
        assert!(mqtt5::is_path_safe_client_id(&known_as) && !known_as.starts_with("cert:"), "{id}");
    }
    let all = [".", "$.", "$$.", "..", "$..", "cert:a", "$cert:a", "a"].map(library_id);
    assert_eq!(all.iter().collect::<std::collections::HashSet<_>>().len(), all.len());
}

#[test]
fn the_assigned_id_is_put_into_an_accepting_connack() {
    assert_eq!(
        with_assigned_id(&[0x20, 6, 0, 0, 3, 0x22, 0, 16], "dev").unwrap(),
        [0x20, 12, 0, 0, 9, 0x12, 0, 3, b'd', b'e', b'v', 0x22, 0, 16]
    );
    assert_eq!(with_assigned_id(&[0x20, 3, 0, 0x8c, 0], "dev"), None);
    assert_eq!(with_assigned_id(&[0x20, 3, 0, 0, 9], "dev"), None);
    let long = "x".repeat(128);
    let packet = with_assigned_id(&[0x20, 3, 1, 0, 0], &long).unwrap();
    assert_eq!(packet[..9], [0x20, 0x87, 0x01, 1, 0, 0x83, 0x01, 0x12, 0]);
    assert_eq!(packet.len(), 3 + 0x87);
}

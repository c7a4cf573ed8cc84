//! Bad input 17. larder compresses nothing and inflates nothing: what somebody else compressed is bytes like any other.

use std::process::Command;

use larder::CacheClient;
use larder::testing::RedisServer;

use crate::{alone, begin, peak};

/// Bits as deflate packs them: the lowest first, but codes by their highest.
#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    count: usize,
}

impl Bits {
    fn push(&mut self, bit: bool) {
        if self.count.is_multiple_of(8) {
            self.bytes.push(0);
        }
        if let Some(last) = self.bytes.last_mut() {
            *last |= u8::from(bit) << (self.count % 8);
        }
        self.count += 1;
    }

    fn code(&mut self, code: u32, bits: u32) {
        (0..bits).rev().for_each(|at| self.push(code >> at & 1 == 1));
    }
}

/// A file of gzip, of a number that has so many times 258 digits and one, and how long it is.
fn bomb(runs: u32) -> (Vec<u8>, u32) {
    let mut bits = Bits::default();
    // The last block, with the codes that deflate has of its own: a one, copies of what was last, the end.
    bits.push(true);
    bits.code(0b10, 2);
    bits.code(0x30 + u32::from(b'1'), 8);
    for _ in 0..runs {
        bits.code(0b1100_0101, 8);
        bits.code(0, 5);
    }
    bits.code(0, 7);
    let long = 258 * runs + 1;
    let checksum = !(0..long).fold(u32::MAX, |sum, _| {
        (0..8).fold(sum ^ u32::from(b'1'), |sum, _| {
            (sum >> 1) ^ (if sum & 1 == 1 { 0xedb8_8320 } else { 0 })
        })
    });
    let mut file = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
    file.extend(bits.bytes);
    file.extend(checksum.to_le_bytes());
    file.extend(long.to_le_bytes());
    (file, long)
}

#[tokio::test]
async fn what_inflates_to_a_large_value_is_not_inflated() {
    let _turn = alone().await;
    let (file, long) = bomb(40_000);
    let server = RedisServer::start().await;
    // The witness: it is what it is said to be.
    let path = server.dir().join("bomb.gz");
    std::fs::write(&path, &file).unwrap();
    let inflated = Command::new("gzip").arg("-dc").arg(&path).output().unwrap();
    assert!(inflated.status.success(), "{inflated:?}");
    assert_eq!(inflated.stdout.len(), long as usize);
    drop(inflated);

    let mut lies = file.clone();
    let at = lies.len() - 4;
    lies[at..].copy_from_slice(&u32::MAX.to_le_bytes());
    let (mut reads, mut most) = (0, 0);
    for cache in [CacheClient::connect(server.url()).await.unwrap(), CacheClient::memory()] {
        for file in [&file, &lies] {
            cache.set_value("v:k", &file[..], None).await.unwrap();
            for near in [false, true] {
                let texts = cache.namespace::<str, String>("v").near(near).build().unwrap();
                let values = cache.namespace::<str, larder::json::Value>("v").near(near);
                let values = values.build().unwrap();
                let before = begin();
                let errors = [
                    texts.get("k").await.unwrap_err(),
                    values.get("k").await.unwrap_err(),
                    cache.get_value("v:k").await.unwrap_err(),
                ];
                most = most.max(peak() - before);
                assert!(errors.iter().all(larder::Error::is_decode), "{errors:?}");
                reads += errors.len();
                assert_eq!(cache.get_bytes("v:k").await.unwrap().unwrap(), file[..]);
            }
        }
    }
    println!(
        "row 17: {} bytes that inflate to {long}: {reads} reads, all of them errors, {most} bytes held at most",
        file.len()
    );
    assert!(most < file.len() * 4 + (1 << 20), "{most}");
}

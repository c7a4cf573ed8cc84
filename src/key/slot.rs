//! Cluster slots: which part of a key chooses one, and tags that share it.

use std::sync::OnceLock;

/// How many slots a cluster has.
pub(crate) const SLOTS: usize = 16_384;

/// The part of a key between its first `{` and the next `}`, which alone chooses the slot, unless it is empty.
pub(super) fn tag(key: &[u8]) -> Option<&[u8]> {
    let open = key.iter().position(|byte| *byte == b'{')?;
    let rest = &key[open + 1..];
    let close = rest.iter().position(|byte| *byte == b'}')?;
    (close > 0).then(|| &rest[..close])
}

/// The slot of a key.
pub(super) fn slot(key: &[u8]) -> u16 {
    crc16(tag(key).unwrap_or(key)) % SLOTS as u16
}

/// The smallest number whose decimal text is in a slot.
pub(super) fn number_in(slot: u16) -> u32 {
    static NUMBERS: OnceLock<Box<[u32]>> = OnceLock::new();
    NUMBERS.get_or_init(|| {
        let mut numbers = vec![u32::MAX; SLOTS];
        let mut missing = SLOTS;
        for number in 0.. {
            let at = usize::from(crc16(number.to_string().as_bytes())) % SLOTS;
            if numbers[at] == u32::MAX {
                numbers[at] = number;
                missing -= 1;
                if missing == 0 {
                    break;
                }
            }
        }
        numbers.into()
    })[usize::from(slot)]
}

/// CRC-16/XMODEM, which the cluster specification of Redis names. On a cluster every call asks for it, hence the table.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| (crc << 8) ^ CRCS[usize::from((crc >> 8) as u8 ^ *byte)])
}

const CRCS: [u16; 256] = {
    let mut crcs = [0; 256];
    let mut byte = 0;
    while byte < crcs.len() {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        crcs[byte] = crc;
        byte += 1;
    }
    crcs
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_cluster_specification() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!(slot(b"foo"), 12182);
        assert_eq!(slot(b"{foo}.bar"), slot(b"foo"));
        assert_ne!(slot(b"foo{}{bar}"), slot(b"bar"));
        assert_eq!(tag(b"foo{{bar}}"), Some(&b"{bar"[..]));
    }

    #[test]
    fn every_slot_has_a_number() {
        for wanted in 0..SLOTS as u16 {
            assert_eq!(slot(number_in(wanted).to_string().as_bytes()), wanted);
        }
    }
}

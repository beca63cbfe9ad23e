//! The file format: pcap with nanoseconds, for Ethernet (draft-ietf-opsawg-pcap).

use std::time::Duration;

use netplumb::Frame;

const NANOSECONDS: u32 = 0xa1b2_3c4d;
const VERSION: (u16, u16) = (2, 4);
/// A limit above the length of any frame.
const LONGEST: u32 = 262_144;
const ETHERNET: u32 = 1;

/// The header of the file, in this machine's byte order, which its first number shows.
pub(super) fn head() -> Vec<u8> {
    let mut head = NANOSECONDS.to_ne_bytes().to_vec();
    head.extend(VERSION.0.to_ne_bytes());
    head.extend(VERSION.1.to_ne_bytes());
    for word in [0, 0, LONGEST, ETHERNET] {
        head.extend(word.to_ne_bytes());
    }
    head
}

/// Appends a frame in the file's format.
pub(super) fn write(frame: &Frame<'_>, to: &mut Vec<u8>) {
    let Frame { time, bytes, length } = *frame;
    let kept = &bytes[..bytes.len().min(LONGEST as usize)];
    let seconds = u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
    for word in [seconds, Duration::subsec_nanos(&time), number(kept.len()), number(length)] {
        to.extend(word.to_ne_bytes());
    }
    to.extend(kept);
}

fn number(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_and_frame_have_the_formats_sizes() {
        let mut file = head();
        assert_eq!(file.len(), 24);
        let frame = Frame { time: Duration::new(7, 9), bytes: &[1, 2, 3], length: 60 };
        write(&frame, &mut file);
        assert_eq!(file.len(), 24 + 16 + 3);
        let words: Vec<u32> =
            file[24..40].chunks(4).map(|word| u32::from_ne_bytes(word.try_into().unwrap())).collect();
        assert_eq!((words, &file[40..]), (vec![7, 9, 3, 60], [1, 2, 3].as_slice()));
    }
}

//! libgsm's decoder: GSM 06.10 full rate.
#![allow(unsafe_code, reason = "libgsm is a C library")]

use gsm_sys::{Gsm, gsm_create, gsm_decode, gsm_destroy};

/// Bytes of a frame.
pub const FRAME_BYTES: usize = 33;
/// Samples of a frame: 20 ms at 8 kHz.
pub const FRAME_SAMPLES: usize = 160;

/// A decoder, with what it remembers of the frames before.
#[derive(Debug)]
pub struct Decoder(Gsm);

impl Decoder {
    /// A decoder that has seen no frame yet; none if there is no memory for it.
    pub fn new() -> Option<Decoder> {
        // SAFETY: takes nothing, and answers null or a state that is ours.
        let state = unsafe { gsm_create() };
        if state.is_null() { None } else { Some(Decoder(state)) }
    }

    /// The samples of the next frame. A frame that is none is silence, as a player has it.
    pub fn decode(&mut self, frame: &[u8; FRAME_BYTES]) -> [i16; FRAME_SAMPLES] {
        let mut frame = *frame;
        let mut samples = [0; FRAME_SAMPLES];
        // SAFETY: the state is ours and alive; libgsm reads 33 bytes and writes 160 samples, which
        // is what the arrays have, and keeps no pointer to them.
        let refused = unsafe { gsm_decode(self.0, frame.as_mut_ptr(), samples.as_mut_ptr()) };
        if refused != 0 { [0; FRAME_SAMPLES] } else { samples }
    }
}

impl Drop for Decoder {
    fn drop(&mut self) {
        // SAFETY: the state came from `gsm_create` and nobody else has it.
        unsafe { gsm_destroy(self.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_frame_holds_is_decoded_or_silence() {
        let mut decoder = Decoder::new().unwrap();
        let mut random = fastrand::Rng::with_seed(6);
        for _ in 0..20_000 {
            let mut frame = [0; FRAME_BYTES];
            random.fill(&mut frame);
            if random.bool() {
                frame[0] = 0xd0 | frame[0] & 0x0f;
            }
            decoder.decode(&frame);
        }
        assert_eq!(decoder.decode(&[0; FRAME_BYTES]), [0; FRAME_SAMPLES]);
    }
}

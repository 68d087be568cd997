//! CRC-32C as 0-db computes it: from zero, and without the last inversion. Clients see it in DATA RAW.

const CRC_TABLES: [[u32; 256]; 8] = crc_tables();

const fn crc_tables() -> [[u32; 256]; 8] {
    // Castagnoli's polynomial, reflected.
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut value = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { value >> 1 ^ POLYNOMIAL } else { value >> 1 };
            bit += 1;
        }
        tables[0][byte] = value;
        byte += 1;
    }
    let mut table = 1;
    while table < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[table - 1][byte];
            tables[table][byte] = before >> 8 ^ tables[0][(before & 0xff) as usize];
            byte += 1;
        }
        table += 1;
    }
    tables
}

/// CRC-32C as 0-db computes it: from zero, and without the last inversion. Eight bytes a step (slicing,
/// Kounavis and Berry 2005).
pub fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = 0u32;
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        let word = u64::from_le_bytes(*word) ^ u64::from(crc);
        crc = 0;
        for (at, table) in CRC_TABLES.iter().rev().enumerate() {
            crc ^= table[(word >> (8 * at) & 0xff) as usize];
        }
    }
    for byte in rest {
        crc = crc >> 8 ^ CRC_TABLES[0][usize::from(crc as u8 ^ byte)];
    }
    crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_0_db() {
        let known: [(&[u8], u32); 4] = [
            (b"", 0),
            (b"v", 0x5739_b3e5),
            (b"123456789", 0x58e3_fa20),
            (b"hello world, zdb", 0x7469_98e6),
        ];
        for (bytes, crc) in known {
            assert_eq!(crc32c(bytes), crc, "{}", bytes.escape_ascii());
        }
    }
}

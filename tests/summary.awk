# What a log of `cargo test` comes to: each test that failed with the beginning of its message, then the sum of the result lines.
# With -v status=N, the exit code of cargo, a failure that no result line tells (a test that does not compile, a program that was
# killed) is one, too.
/^---- .* ----$/ { lines = 0; telling = 1 }
/^failures:$/ { telling = 0 }
telling && lines++ < 20 { told = told substr($0, 1, 600) "\n" }
/^test result: / {
    telling = 0
    for (i = 2; i <= NF; i++) {
        if ($i ~ /^passed/) passed += $(i - 1)
        if ($i ~ /^failed/) failed += $(i - 1)
        if ($i ~ /^ignored/) skipped += $(i - 1)
    }
}
END {
    if (status != 0 && failed == 0) failed = 1
    printf "%s%d passed, %d failed, %d skipped\n", told, passed, failed, skipped
}

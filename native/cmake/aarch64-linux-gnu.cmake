# Cross build for 64-bit Arm with Debian's gcc-aarch64-linux-gnu. Static, so that qemu-user needs no foreign libraries.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_EXE_LINKER_FLAGS_INIT -static)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64 -cpu max)
set(TRIT_BASELINE_EMULATOR qemu-aarch64 -cpu cortex-a57) # Armv8.0: no dotprod

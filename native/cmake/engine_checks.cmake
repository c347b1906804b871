# engine_checks.cmake - the native checks of everything above the kernels. Each ends with a line "N passed, N failed".

# trit_check(<name> <source>...): a test program linked with the library and the tiny model.
function(trit_check name)
  add_executable(${name} ${ARGN} ${CHECKS}/tiny_model.c)
  target_link_libraries(${name} PRIVATE trit trit_flags)
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES TIMEOUT 300)
endfunction()

trit_check(forward_test ${CHECKS}/forward_test.c)
trit_check(sampler_test ${CHECKS}/sampler_test.c)
trit_check(screen_test ${CHECKS}/screen_test.c)
trit_check(kv_test ${CHECKS}/kv_test.c)
trit_check(attention_test ${CHECKS}/attention_test.c)
trit_check(calibrate_test ${CHECKS}/calibrate_test.c)
trit_check(pool_test ${CHECKS}/pool_test.c)

# Not a check itself: what `make instructions` counts the instructions of.
add_executable(step_driver ${CMAKE_CURRENT_SOURCE_DIR}/../benchmarks/instructions/step_driver.c)
target_link_libraries(step_driver PRIVATE trit trit_flags)

# The public header alone. In C++ only where there is a compiler for it.
add_executable(header_test ${CHECKS}/header_test.c)
target_compile_options(header_test PRIVATE -Wpedantic)
target_link_libraries(header_test PRIVATE trit)
add_test(NAME header_test COMMAND header_test)
include(CheckLanguage)
check_language(CXX)
if(CMAKE_CXX_COMPILER AND NOT CMAKE_CROSSCOMPILING)
  enable_language(CXX)
  add_executable(header_test_cxx ${CHECKS}/header_test.cpp)
  target_compile_options(header_test_cxx PRIVATE -Wall -Wextra -Wpedantic -Werror)
  target_link_libraries(header_test_cxx PRIVATE trit m Threads::Threads)
  add_test(NAME header_test_cxx COMMAND header_test_cxx)
endif()

trit_check(api_test ${CHECKS}/api_test.c)
trit_check(batch_test ${CHECKS}/batch_test.c)
trit_check(alloc_fail ${CHECKS}/alloc_fail.c)
target_link_options(alloc_fail PRIVATE
  -Wl,--wrap=posix_memalign -Wl,--wrap=mmap -Wl,--wrap=pthread_create)

# Fuzz targets: with clang and -DTRIT_LIBFUZZER=ON, libFuzzer drives them (fuzz_model -max_total_time=600); else a seeded random loop.
option(TRIT_LIBFUZZER "Link the fuzz targets with libFuzzer" OFF)
foreach(target fuzz_model fuzz_batch)
  add_executable(${target} ${CHECKS}/${target}.c ${CHECKS}/tiny_model.c)
  target_link_libraries(${target} PRIVATE trit trit_flags)
  if(TRIT_LIBFUZZER)
    target_link_options(${target} PRIVATE -fsanitize=fuzzer)
    add_test(NAME ${target} COMMAND ${target} -runs=20000 -max_len=256)
  else()
    target_sources(${target} PRIVATE ${CHECKS}/fuzz_main.c)
    add_test(NAME ${target} COMMAND ${target} 5000)
  endif()
  set_tests_properties(${target} PROPERTIES TIMEOUT 300)
endforeach()

@echo off
rem As gradlew: fetches Gradle, holds it against its SHA-256, runs it. Needs Windows 10 or later (curl, tar, certutil).
setlocal EnableDelayedExpansion
set "HERE=%~dp0."
for /f "usebackq tokens=1,* delims==" %%a in ("%HERE%\gradle\wrapper\gradle-wrapper.properties") do (
  if "%%a"=="distributionUrl" set "URL=%%b"
  if "%%a"=="distributionSha256Sum" set "SHA=%%b"
)
set "URL=!URL:\:=:!"
for %%f in ("!URL:/=\!") do set "NAME=%%~nf"
set "NAME=!NAME:-bin=!"
set "INTO=%USERPROFILE%\.gradle\sharp-bench\!SHA!"
if not exist "!INTO!\!NAME!\bin\gradle.bat" (
  if not exist "!INTO!" mkdir "!INTO!"
  curl --fail --silent --show-error --location --output "!INTO!\gradle.zip" "!URL!" || exit /b 1
  certutil -hashfile "!INTO!\gradle.zip" SHA256 | findstr /i /x "!SHA!" >nul || (
    echo error: !URL!: its SHA-256 is not !SHA!; nothing was installed 1>&2
    del "!INTO!\gradle.zip"
    exit /b 1
  )
  tar -xf "!INTO!\gradle.zip" -C "!INTO!" || exit /b 1
  del "!INTO!\gradle.zip"
)
call "!INTO!\!NAME!\bin\gradle.bat" -p "%HERE%" %*
